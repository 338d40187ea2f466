"""One thin file per verb: puts parts together, holds no method."""
