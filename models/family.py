"""What a family is: the contract between a module of `models/families` and the loader.

To add a family, write one module there, named as YAMLs shall call it (`family: NAME`), with the four members of
`Family`, and one YAML in `eval_configs/`. There is no list to add it to. The module holds everything that differs from
other families: the keys of its YAML, the rules from released tensor names to ours, which transformers class or class of
`models/parts` each part is, the prompt format, the tasks, and what ends an answer.

A model is loaded in this order, and what the user can mend is a `MiniVLMError` (`models/errors.py`) of one line:

1. `Config`: the YAML's keys and their checks. No file is opened.
2. `parts`: the released tensors, opened lazily, under the names of our modules. Nothing is allocated.
3. `tokenizer`: from the released files, so that a missing one is known before the weights are loaded.
4. The loader checks that memory suffices, and names and sizes of all tensors both ways; then it makes the modules.
5. `assemble`: the modules, the tokenizer, the prompt format and the facts for the page in one `VisionLanguageModel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:  # torch, which reading a configuration does not need
    from torch import nn

    from models.family_config import FamilyConfig
    from models.files.released import ReleasedFiles
    from models.tensors.weights import Part
    from models.vision_language_model import Tokenizer, VisionLanguageModel

ConfigT = TypeVar("ConfigT", bound="FamilyConfig")
TokenizerT = TypeVar("TokenizerT", bound="Tokenizer")


class Family(Protocol[ConfigT, TokenizerT]):
    """A module of `models/families`, with its own `Config` and tokenizer class. Parameters are given by position."""

    @property
    def Config(self) -> type[ConfigT]:
        """A frozen dataclass: the keys that a YAML of this family takes, beside those of `FamilyConfig`.

        Keys that name a released file or folder are declared with `released_file`, whose hint says where to get it; a
        default is what most checkpoints need. `__post_init__` raises ConfigError for values that can't be meant.
        """

    def parts(self, config: ConfigT, files: ReleasedFiles, /) -> dict[str, Part]:
        """Which released tensors become which module, by slot: "vision_tower", "connector", "language_model", ….

        Every released tensor goes to a part or is left out by a `Drop` that says why. Raises CheckpointMissing,
        CheckpointCorrupt or CheckpointMismatch where the files do not fit, with the likely cause.
        """

    def tokenizer(self, files: ReleasedFiles, /) -> TokenizerT:
        """The language model's tokenizer, giving the ids that the family's reference gives."""

    def assemble(
        self, config: ConfigT, files: ReleasedFiles, modules: Mapping[str, nn.Module], tokenizer: TokenizerT, /
    ) -> VisionLanguageModel:
        """The model from its loaded modules, by the keys of `parts`; the facts for the page: `config.model_info`."""
