"""How the pictures of one file are fitted into the buckets that a clip asks for."""

from pipeline.buckets import Geometry, fit
from pipeline.errors import Reason, SourceError
from pipeline.video.clips import ClipRequest, FrameRecipe
from pipeline.video.facts import VideoFacts
from pipeline.video.limits import DecodeLimits


def geometries(
    request: ClipRequest, facts: VideoFacts, recipe: FrameRecipe, limits: DecodeLimits
) -> list[Geometry]:
    """One geometry per target, in order.

    Raises:
        SourceError: ``hint_mismatch`` if the picture has not the size that the request rests on;
            ``too_large`` if its shape would make the scaled picture exceed ``limits.max_pixels``.
    """
    expected, found = request.expected_size, (facts.width, facts.height)
    if expected is not None and expected != found:
        raise SourceError(
            Reason.HINT_MISMATCH,
            f"the picture is {found[0]}x{found[1]}, expected was {expected[0]}x{expected[1]}",
        )
    fitted = []
    for target in request.targets:
        geometry = fit(facts.width, facts.height, target.bucket, recipe.resize)
        if geometry.scaled_width * geometry.scaled_height > limits.max_pixels:
            raise SourceError(
                Reason.TOO_LARGE,
                f"a picture of {found[0]}x{found[1]} scaled to cover {target.bucket} has "
                f"{geometry.scaled_width}x{geometry.scaled_height} pixels",
            )
        fitted.append(geometry)
    return fitted
