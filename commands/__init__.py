"""One thin file a verb: puts parts together, holds no method."""
