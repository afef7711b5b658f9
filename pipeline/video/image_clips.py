"""The one window of a still image."""

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from pipeline.errors import Reason, SourceError
from pipeline.video.clips import ClipEnd, ClipFailure, ClipRequest, FrameRecipe, Segment
from pipeline.video.convert import Scaler, to_rgb
from pipeline.video.facts import VideoFacts
from pipeline.video.limits import DecodeLimits
from pipeline.video.orientation import Orientation
from pipeline.video.placing import geometries


def image_results(
    request: ClipRequest,
    facts: VideoFacts,
    picture: av.VideoFrame,
    recipe: FrameRecipe,
    limits: DecodeLimits,
) -> Iterator[Segment | ClipEnd | ClipFailure]:
    """Window 0 of an upright image at each target, if asked for, and the end of the clip.

    An image has one frame and one window under any grid; a clip that starts later is empty.
    """
    try:
        if request.start:
            raise SourceError(Reason.EMPTY_RANGE, f"an image has no frame at {request.start:g} s")
        fitted = geometries(request, facts, recipe, limits)
        scaler = Scaler(recipe.filter)
        pictures = [to_rgb(picture, each, Orientation(), scaler) for each in fitted]
    except SourceError as error:
        yield ClipFailure(request.key, error.reason, error.message, facts)
        return
    if request.ranges[0][0] == 0:
        for geometry, pixels in zip(fitted, pictures, strict=True):
            yield Segment(
                key=request.key,
                bucket=geometry.bucket,
                first_window=0,
                frames=pixels[None, None],
                pts=np.zeros((1, 1), np.int64),
                valid_frames=np.ones(1, np.int64),
                first_frames=np.zeros(1, np.int64),
                time_base=Fraction(1),
                geometry=geometry,
                fps=0.0,
                last=True,
            )
    yield ClipEnd(request.key, frames=1, windows=1, facts=facts)
