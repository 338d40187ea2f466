"""Models and their steps: pretraining/ teaches an encoder, classifier.py is fine-tuned."""
