"""Any open_clip model as an encoder of crops and prompts."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from openvocab._internal.environment import (
    preserve_environ,
    preserve_logging,
    require_packages,
    resolve_device,
)
from openvocab._internal.threads import limit_threads_after_fork, single_openmp_thread
from openvocab.encoders._crops import Cropper
from openvocab.encoders._image_encoder_runtime import CONFIG, WEIGHTS, Forward, fastest, identity
from openvocab.errors import ModelError, WeightsNotFoundError, first_line
from openvocab.types import Boxes, Features, Image

_SUPPORTED = {
    "interpolation": ("bicubic", "bilinear"),
    "resize_mode": ("shortest", "squash", "longest"),
}
_TEXT_BATCH = 512  # prompts per forward pass: a long list must not take all memory


class OpenClipEncoder:
    """Encodes crops and prompts as unit features of an open_clip model; thread-safe, eval mode.

    If a bundle has its image encoder as a graph (`openvocab export`), ONNX Runtime or OpenVINO
    runs it on a CPU; otherwise torch does. Crops are squashed, or first made square with real
    context if the model's own preprocessing keeps the aspect ratio; they are never centre-cropped.
    Source: CLIP (Radford et al., ICML 2021).
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        device: str | None = None,
        batch_size: int | None = None,
        graphs: bool = True,
    ) -> None:
        """Load a model with its own preprocessing; never random weights, never a download.

        Args:
            source: folder of an open_clip bundle, or `MODEL:TAG` already in the local cache.
            device: a torch device; None uses CUDA where available.
            batch_size: crops per forward pass; None uses 16 on a CPU, where more are no faster,
                and 64 elsewhere.
            graphs: on a CPU, run the fastest graph of the image encoder in the bundle; if False,
                use torch in fp32, against which graphs are measured.

        Raises:
            WeightsNotFoundError: the bundle or the cached model is not on this machine.
            ModelError: a file is damaged, the tokenizer needs the `transformers` extra, there is no
                such device, or the batch size is less than 1.
        """
        if batch_size is not None and batch_size < 1:
            raise ModelError(f"batch_size is {batch_size}; give 1 or more.")
        limit_threads_after_fork()
        self._device = torch.device(resolve_device(device))
        self._batch_size = batch_size or (16 if self._device.type == "cpu" else 64)
        with preserve_environ(), preserve_logging():
            folder = bundle_folder(source)
            digest = identity(folder)
            self._model, self._tokenize, config = _load(folder, self._device)
            on_cpu = self._device.type == "cpu"
            graph = fastest(folder, digest) if graphs and on_cpu else None
        self._graph: Forward | None
        self._graph, suffix = graph or (None, "")
        process = _preprocessing(folder, self._model, config)
        square = process["resize_mode"] != "squash"
        self._cropper = Cropper(process["size"], square, process["interpolation"], self._device)
        image_encoder = _ImageEncoder(self._model.visual, process["mean"], process["std"])
        self._image_encoder = image_encoder.to(self._device).eval()
        self._fingerprint = f"{digest}/{json.dumps(process, sort_keys=True)}{suffix}"
        self._feature_size = int(self.encode_text(["a"]).shape[1])
        self._warm_up(folder)

    def _warm_up(self, folder: Path) -> None:
        """Run the image encoder once: it may need another input size than the bundle says."""
        try:
            self.encode_regions([np.zeros((4, 4, 3), np.uint8)], [np.array([[0, 0, 4, 4.0]])])
        except ModelError:
            raise
        except Exception as error:  # from torch, ONNX Runtime or OpenVINO
            raise ModelError(
                f"{folder} cannot be run ({first_line(error)}); use another device, or pull or "
                "export it again."
            ) from error

    @property
    def logit_scale(self) -> float:
        """Factor on the cosine, already exponentiated."""
        return float(self._model.logit_scale.detach().exp())

    @property
    def logit_bias(self) -> float | None:
        """Bias of a sigmoid model; None for a softmax model."""
        bias = getattr(self._model, "logit_bias", None)
        return None if bias is None else float(bias.detach())

    @property
    def fingerprint(self) -> str:
        """Hash of weights and configuration, the preprocessing, and any precision except fp32."""
        return self._fingerprint

    @property
    def image_encoder(self) -> nn.Module:
        """The image encoder in torch, crops to unit features, from which an export is made."""
        return self._image_encoder

    @property
    def crop_size(self) -> int:
        """Side of the square that a crop is resized to, in pixels."""
        return self._cropper.size

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Features:
        """Encode prompts as features `(K, D)`; those over the context length are truncated."""
        limit_threads_after_fork()
        if not prompts:
            return np.empty((0, self._feature_size), np.float32)
        parts = [
            self._model.encode_text(self._tokenize(batch).to(self._device), normalize=True)
            for batch in (
                list(prompts[start : start + _TEXT_BATCH])
                for start in range(0, len(prompts), _TEXT_BATCH)
            )
        ]
        return _check_finite(torch.cat(parts).float().cpu().numpy())

    @torch.inference_mode()
    def encode_regions(self, images: Sequence[Image], boxes: Sequence[Boxes]) -> list[Features]:
        """Encode the boxes of each BGR image as `(N_i, D)`, in batches across images."""
        limit_threads_after_fork()
        with nullcontext() if self._graph is None else single_openmp_thread():
            parts = [self.encode_crops(crops) for crops in self.crop_batches(images, boxes)]
        if not parts:
            return [np.empty((0, self._feature_size), np.float32) for _ in images]
        rows = _check_finite(np.concatenate([part.cpu().numpy() for part in parts]))
        ends = list(accumulate(len(xyxy) for xyxy in boxes))
        return [rows[end - len(xyxy) : end] for end, xyxy in zip(ends, boxes, strict=True)]

    def crop_batches(self, images: Sequence[Image], boxes: Sequence[Boxes]) -> Iterator[Tensor]:
        """Cut the boxes out of the images, in batches `(N, size, size, 3)` of uint8 BGR."""
        return self._cropper(images, boxes, self._batch_size)

    @torch.inference_mode()
    def encode_crops(self, crops: Tensor) -> Tensor:
        """Unit features `(N, D)` of a batch of `crop_batches`."""
        if self._graph is not None:
            return torch.from_numpy(self._graph(crops.numpy()))
        on_cuda = self._device.type == "cuda"  # bf16 is slower on CPUs without AMX
        with torch.autocast(self._device.type, torch.bfloat16, enabled=on_cuda):
            features: Tensor = self._image_encoder(crops)
        return features.float()


class _ImageEncoder(nn.Module):
    """Maps crops `(N, S, S, 3)` uint8 BGR to unit features `(N, D)`, like `encode_image`."""

    factor: Tensor
    offset: Tensor

    def __init__(self, visual: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.visual = visual
        shape = (1, 3, 1, 1)
        std_, mean_ = torch.tensor(std).view(shape), torch.tensor(mean).view(shape)
        # (pixel / 255 - mean) / std, as one multiplication and one addition
        self.register_buffer("factor", 1 / (255 * std_))
        self.register_buffer("offset", -mean_ / std_)

    def forward(self, regions: Tensor) -> Tensor:  # the name is in every exported graph
        """Normalize here, so that an exported graph does it, too, and takes uint8."""
        pixels = regions.permute(0, 3, 1, 2)[:, [2, 1, 0]].float() * self.factor + self.offset
        output = self.visual(pixels)
        return normalize(output[0] if isinstance(output, tuple) else output, dim=-1)


def _check_finite(rows: Features) -> Features:
    """Refuse NaN, which damaged weights may give, and which no comparison would notice."""
    if not np.isfinite(rows).all():
        raise ModelError("The encoder gives features that are not numbers; pull its weights again.")
    return rows


def bundle_folder(source: str | os.PathLike[str]) -> Path:
    """The folder of a bundle: as given, or from the local Hugging Face cache.

    Raises:
        WeightsNotFoundError: there is no such bundle.
    """
    source = os.fspath(source)
    if ":" not in source or Path(source).is_dir():
        folder = Path(source)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise WeightsNotFoundError(
                    f"{folder} has no {name}; give the folder of an open_clip bundle."
                )
        return folder
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    model, tag = source.split(":", 1)
    hub = str((open_clip.get_pretrained_cfg(model, tag) or {}).get("hf_hub", "")).strip("/")
    paths = [try_to_load_from_cache(hub, name) for name in (CONFIG, WEIGHTS)] if hub else []
    if not paths or not all(isinstance(path, str) for path in paths):
        raise WeightsNotFoundError(
            f"{source} is not in the local cache of open_clip; "
            "pull a preset with `openvocab weights pull balanced`, or give a bundle's folder."
        )
    return Path(str(paths[0])).parent


def _load(folder: Path, device: torch.device) -> tuple[Any, Any, dict[str, Any]]:
    """Load model, tokenizer and configuration."""
    import open_clip

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["model_cfg"].get("text_cfg", {}).get("hf_tokenizer_name"):
            require_packages(f"The tokenizer of {folder}", "transformers", "transformers")
        name = f"local-dir:{folder}"
        # It draws random weights, which are replaced by the file's a moment later.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            model = open_clip.create_model(name, device=device, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(name)
    except ModelError:
        raise
    # open_clip, safetensors and json each raise their own errors on a damaged bundle.
    except Exception as error:
        raise ModelError(
            f"{folder} cannot be loaded as an open_clip bundle ({first_line(error)}); pull it again."
        ) from error
    model.eval().to(memory_format=torch.channels_last)
    return model, tokenizer, config


def _preprocessing(folder: Path, model: Any, config: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Size, mean, std, interpolation and resize mode, as open_clip reads them from the bundle."""
    try:
        merged = dict(model.visual.preprocess_cfg) | config.get("preprocess_cfg", {})
        size = merged.get("size", model.visual.image_size)
        (side,) = {size} if isinstance(size, int) else set(size)
        process = {
            "size": int(side),
            "mean": [float(channel) for channel in merged["mean"]],
            "std": [float(channel) for channel in merged["std"]],
            "interpolation": merged.get("interpolation", "bicubic"),
            "resize_mode": merged.get("resize_mode", "shortest"),
        }
        for key, supported in _SUPPORTED.items():
            if process[key] not in supported:
                raise ValueError(f"{key} {process[key]!r}")  # noqa: TRY301
        if side < 1 or len(process["mean"]) != 3 or len(process["std"]) != 3 or 0 in process["std"]:
            raise ValueError(f"{side} pixels, {process['mean']}, {process['std']}")  # noqa: TRY301
    except (ValueError, TypeError, LookupError) as error:
        raise ModelError(
            f"{folder / CONFIG} has no supported preprocessing ({first_line(error)}); "
            "pull it again."
        ) from error
    return process
