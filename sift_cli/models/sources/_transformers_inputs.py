"""Example inputs of the transformers library's models.

A model says which input is its main one and has the sizes of it somewhere in its configuration, under one of a few
names. Optional inputs are left out: an attention mask of ones is what the model assumes without one.
"""

from __future__ import annotations

import inspect
from typing import Any

from sift_cli.core.plan import InputSpec

#: Tokens of an example. Shorter where a model has room for less than twice as many.
LENGTH = 128
#: Samples of an example of speech, one second of it at 16 kHz.
SAMPLES = 16000
_POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions", "max_source_positions", "n_ctx")
_IMAGE_SIZES = ("image_size", "img_size", "input_size")
_CHANNELS = ("num_channels", "in_channels", "in_chans", "num_image_channels")


def specs(cls: Any, config: Any) -> tuple[InputSpec, ...] | None:
    """Inputs of ``cls``, by keyword; None for a kind of input that is not known here."""
    takes = inspect.signature(cls.forward).parameters
    main = cls.main_input_name
    wanted = dict.fromkeys([main, *(name for name in _BESIDE if name in takes and _needed(name, main, cls, config))])
    found = []
    for name in wanted:
        spec = _KINDS[name](name, config) if name in _KINDS else None
        if spec is None:
            return None
        found.append(spec)
    return tuple(found)


#: Inputs that a model needs beside its main one.
_BESIDE = ("input_ids", "pixel_values", "decoder_input_ids", "bbox")


def _needed(name: str, main: str, cls: Any, config: Any) -> bool:
    if name == "decoder_input_ids":
        return bool(config.is_encoder_decoder) or "decoder" in config.sub_configs
    if name == "bbox":
        return True
    # Contrastive models compare a text with an image; models that talk about images talk without one too.
    both = hasattr(config, "text_config") and hasattr(config, "vision_config")
    contrastive = both and hasattr(config, "projection_dim") and "logits_per_image" in (cls.forward.__doc__ or "")
    return contrastive or config.model_type in ("vilt", "flava", "bridgetower", "blip")


def _tokens(name: str, config: Any) -> InputSpec | None:
    text = _part(config, "decoder" if name.startswith("decoder") else "text")
    vocabulary = _first(text, ("decoder_vocab_size", "vocab_size") if name.startswith("decoder") else ("vocab_size",))
    if not vocabulary:
        return None
    room = min((getattr(text, key) for key in _POSITIONS if isinstance(getattr(text, key, None), int)), default=0)
    length = min(LENGTH, room // 2) if room > 1 else LENGTH
    return InputSpec((1, length), "int64", name, int(vocabulary))


def _pixels(name: str, config: Any) -> InputSpec | None:
    vision = _part(config, "vision")
    size = _first(vision, _IMAGE_SIZES) or 224
    if isinstance(size, dict):
        size = [size.get("height", 224), size.get("width", 224)]
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    channels = _first(vision, _CHANNELS) or 3
    frames = getattr(vision, "num_frames", None)
    video = (frames,) if isinstance(frames, int) and vision.model_type in _VIDEO else ()
    return InputSpec((1, *video, channels, height, width), "float32", name)


_VIDEO = ("timesformer", "videomae", "vivit", "vjepa2", "xclip")


def _features(name: str, config: Any) -> InputSpec | None:
    if mels := getattr(config, "num_mel_bins", None):
        if positions := getattr(config, "max_source_positions", None):
            if config.model_type.startswith("speech_to_text"):
                return InputSpec((1, 2 * LENGTH, config.input_feat_per_channel), "float32", name)
            return InputSpec((1, mels, 2 * positions), "float32", name)
        return InputSpec((1, LENGTH, mels), "float32", name)
    width = _first(config, ("feature_projection_input_dim", "input_feat_per_channel", "feature_size", "input_dim"))
    return InputSpec((1, LENGTH, width), "float32", name) if width else None


def _samples(name: str, config: Any) -> InputSpec | None:
    if mels := getattr(config, "num_mel_bins", None):
        return InputSpec((1, getattr(config, "max_length", 1024), mels), "float32", name)
    return InputSpec((1, SAMPLES), "float32", name)


def _boxes(name: str, config: Any) -> InputSpec | None:
    tokens = _tokens("input_ids", config)
    return InputSpec((*tokens.shape, 4), "int64", name) if tokens else None


_KINDS = {
    "input_ids": _tokens,
    "decoder_input_ids": _tokens,
    "pixel_values": _pixels,
    "input_features": _features,
    "input_values": _samples,
    "bbox": _boxes,
}


def _part(config: Any, what: str) -> Any:
    """The part of a configuration that describes text, images or a decoder; the whole one where it has no parts."""
    keys = {
        "text": ("text_config", "text_encoder", "encoder", "llm_config", "language_config"),
        "vision": ("vision_config", "encoder", "backbone_config"),
        "decoder": ("decoder", "text_config"),
    }
    for key in keys[what]:
        part = getattr(config, key, None)
        if part is not None and hasattr(part, "model_type"):
            return part
    return config


def _first(config: Any, keys: tuple[str, ...]) -> Any:
    return next((value for key in keys if (value := getattr(config, key, None)) is not None), None)
