"""`benchmarks.sizes`: what a setting changes, and what a codec of other sizes begins with."""

import pytest
import torch

from benchmarks.sizes import begun, read_setting, resized
from models.streamvoiceanon.shapes import SMALL
from models.streamvoiceanon.training.initial import fresh_networks


def test_sizes_change_together() -> None:
    assert resized(SMALL, read_setting("lm", "")) == SMALL
    halved = resized(SMALL, read_setting("codec", "codebooks=12,halvings=2"))
    assert (halved.codec.codebooks, halved.acoustic_lm.codebooks) == (12, 12)
    assert halved.frames.seconds == 2 * SMALL.frames.seconds
    lm, before = halved.acoustic_lm, SMALL.acoustic_lm
    assert (lm.prompt_frames, lm.max_frames) == (before.prompt_frames // 2, before.max_frames // 2), "the same seconds"
    with pytest.raises(SystemExit, match="divide 192"):
        resized(SMALL, {"codebooks": 7})
    with pytest.raises(SystemExit, match="codebooks: no size of lm"):
        read_setting("lm", "codebooks=4")


@pytest.mark.parametrize("setting", ["", "codebooks=12", "halvings=2"])
def test_a_codec_begins_with_all_that_fits_but_its_quantizer(setting: str) -> None:
    known = fresh_networks(SMALL, 1)["codec"].state_dict()
    own = begun(known, resized(SMALL, read_setting("codec", setting)))["codec"].state_dict()
    for name in ("backbone.downsample_layers.0.0.conv.weight", "head.out.weight"):
        assert torch.equal(own[name], known[name]), name
    quantizers = [name for name in own if name.startswith("quantizer.residual_fsq.") and name.endswith("weight")]
    assert quantizers
    assert not any(name in known and torch.equal(own[name], known[name]) for name in quantizers)
