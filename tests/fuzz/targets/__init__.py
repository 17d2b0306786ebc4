"""Every parser of ours; a file a family of them."""

from tests.fuzz.targets import folders, media, records, runs, sources, tokens, weights

TARGETS = (
    *weights.TARGETS,
    *tokens.TARGETS,
    *media.TARGETS,
    *folders.TARGETS,
    *sources.TARGETS,
    *records.TARGETS,
    *runs.TARGETS,
)
