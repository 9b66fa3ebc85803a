"""Models on the Hugging Face Hub: save_pretrained, from_pretrained, push_to_hub.

What is saved is an export like any other (``lras.checkpoint``) with a model card beside it, so a
folder from the hub is a ``ckpt=`` and a run's export can be pushed as it is.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from huggingface_hub import ModelCard, PyTorchModelHubMixin, snapshot_download

FILES = ["config.json", "*.safetensors", "*.safetensors.index.json"]
NOT_STATED = "not stated"
OPTIONS = {
    "map_location",
    "revision",
    "cache_dir",
    "force_download",
    "local_files_only",
    "token",
}  # of from_pretrained

CARD = """---
{{ card_data }}
---

# {{ title }}

{{ purpose }} Load it with `{{ kind }}.from_pretrained(...)`.

| | |
|---|---|
{% for name, value in facts.items() -%}
| {{ name }} | {{ value }} |
{% endfor %}
Numbers are of the protocol named beside them and of no other. Figures that are not stated were not
handed in when this card was written.
"""


class Hub(
    PyTorchModelHubMixin,
    library_name="lras",
    tags=["optical-flow", "video", "lras"],
    paper_url="https://arxiv.org/abs/2507.09082",
    model_card_template=CARD,
):
    """Hugging Face's mixin over our own files.

    ``note`` holds what is known of the training (plain data: data, tokens, step, flow_epe_px,
    protocol, license, ...). It travels in config.json and fills the model card;
    ``model_card_kwargs`` of ``save_pretrained`` and ``push_to_hub`` add to it. A license is stated
    only where one is handed in: weights may come from elsewhere than this code.
    """

    note: Mapping[str, Any] = MappingProxyType({})
    purpose: ClassVar[str] = "A network of this project."
    loaded_by: ClassVar[str]  # the function of lras.checkpoint that reads one

    def _save_pretrained(self, save_directory: Path) -> None:
        from lras.checkpoint import save  # it needs the classes that are built on this one

        save(self, save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """Frozen and in evaluation mode, from a folder or a repository of the hub.

        ``options``: ``map_location``, and those of Hugging Face's mixin.

        Raises:
            FileNotFoundError, ValueError: as ``lras.checkpoint.load``; the folder holds another
                kind of model; or an option is not known.
        """
        if unknown := sorted(options.keys() - OPTIONS):
            raise ValueError(
                f"from_pretrained got {', '.join(unknown)}, which it does not know; use "
                f"{', '.join(sorted(OPTIONS))}."
            )
        return super().from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        **_: Any,  # what the mixin takes out of config.json; the folder is read as a whole
    ) -> Any:
        from lras import checkpoint

        folder = Path(model_id)
        if not folder.is_dir():
            where = {"cache_dir": cache_dir, "token": token, "revision": revision}
            where |= {"force_download": force_download, "local_files_only": local_files_only}
            folder = Path(snapshot_download(model_id, allow_patterns=FILES, **where))
        model = getattr(checkpoint, cls.loaded_by)(folder).to(map_location)
        if not isinstance(model, cls):
            raise ValueError(
                f"{model_id} holds a {type(model).__name__}, expected a {cls.__name__}; load it as "
                f"{type(model).__name__}.from_pretrained."
            )
        return model

    def generate_model_card(self, *args: Any, **facts: Any) -> ModelCard:
        """A card that says what is known, and where something is not stated."""
        known = dict(self.note) | facts
        weights = sum(value.numel() for value in self.parameters())
        card = super().generate_model_card(
            *args,
            title=known.get("title", f"LRAS {type(self).__name__}"),
            kind=type(self).__name__,
            purpose=self.purpose,
            facts={
                "training data": _in_words(known.get("data")),
                "training tokens": _in_words(known.get("tokens")),
                "optimizer steps": _in_words(known.get("step")),
                "parameters": _in_words(weights),
                "flow EPE (px)": _in_words(known.get("flow_epe_px")),
                "evaluation protocol": _in_words(known.get("protocol")),
                "code": _in_words(known.get("git_sha")),
                "license": _in_words(known.get("license")),
            },
        )
        card.data.license = known.get("license")
        return card


def _in_words(value: Any) -> str:
    """A cell of the card's table, whose columns ``|`` would break.

    >>> _in_words({"easy": 0.42, "hard": 3.1}), _in_words(12000)
    ('easy 0.42, hard 3.1', '12,000')
    """
    if value is None:
        return NOT_STATED
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|")


def card_figures(results: Mapping[str, Any]) -> dict[str, str]:
    """Flow EPE and protocol for a model card, out of an evaluation's results.json."""
    best, data, how = (results[key] for key in ("tracers", "dataset", "protocol"))
    row, baselines = best[0], ", ".join(f"{r['name']} {r['epe']:.3f}" for r in best[1:])
    settings = ", ".join(f"{name}={value}" for name, value in how["tracer_config"].items())
    return {
        "flow_epe_px": f"{row['epe']:.3f} ({row['name']}); beside it: {baselines or 'nothing'}",
        "protocol": f"{data['name']}, {data['num_pairs']} pairs, {data['num_points']} points, "
        f"seed {how['seed']}; {settings}",
    }
