"""From a path to checked rows and voxels."""
