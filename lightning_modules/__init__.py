"""Models and their steps: autoencoder.py is pretrained, classifier.py is fine-tuned."""
