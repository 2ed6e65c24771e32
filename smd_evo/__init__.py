"""smd_evo: gradient-free fine-tuning and ensembling of pre-trained networks by sparse subspace mutation.

An implementation of Sparse Mutation Decompositions (Whitaker & Whitley 2023, arXiv 2302.05832). The names
below load what they need on first use; ``import smd_evo`` by itself imports nothing heavy.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smd_evo.api.functions import compare as compare
    from smd_evo.api.functions import evolve as evolve
    from smd_evo.api.functions import finetune as finetune
    from smd_evo.api.functions import window as window
    from smd_evo.api.runs import load_run as load_run
    from smd_evo.core.delta import SparseDelta as SparseDelta
    from smd_evo.core.keys import derive as derive
    from smd_evo.core.layout import Layout as Layout
    from smd_evo.core.layout import Slot as Slot
    from smd_evo.core.lowrank import LowRank as LowRank
    from smd_evo.core.mutation import Lineage as Lineage
    from smd_evo.core.mutation import Mutation as Mutation
    from smd_evo.core.mutation import decompose as decompose
    from smd_evo.core.mutation import sample_mutations as sample_mutations
    from smd_evo.core.noise import gaussian as gaussian
    from smd_evo.core.noise import permutation as permutation
    from smd_evo.core.parameters import ParameterSpace as ParameterSpace
    from smd_evo.core.rows import decode_rows as decode_rows
    from smd_evo.core.rows import encode_rows as encode_rows
    from smd_evo.core.selection import within_kinds as within_kinds
    from smd_evo.core.specs import parse_subspace as parse_subspace
    from smd_evo.core.structured import NeuronSubspace as NeuronSubspace
    from smd_evo.core.structured import TensorSubspace as TensorSubspace
    from smd_evo.core.subspace import Dense as Dense
    from smd_evo.core.subspace import PartitionSubspace as PartitionSubspace
    from smd_evo.core.subspace import RandomSubspace as RandomSubspace
    from smd_evo.core.subspace import Subspace as Subspace
    from smd_evo.core.units import UnitSubspace as UnitSubspace
    from smd_evo.core.within import Within as Within
    from smd_evo.ensemble.module import SparseEnsemble as SparseEnsemble
    from smd_evo.ensemble.selection import select_members as select_members
    from smd_evo.ensemble.soup import soup as soup
    from smd_evo.evaluation.calibration import calibrate_sigma as calibrate_sigma
    from smd_evo.evaluation.evaluator import Evaluator as Evaluator
    from smd_evo.evaluation.fields import TakeOutput as TakeOutput
    from smd_evo.evaluation.fitness import BatchFitness as BatchFitness
    from smd_evo.evaluation.fitness import ModuleFitness as ModuleFitness
    from smd_evo.evaluation.front import ParetoFront as ParetoFront
    from smd_evo.evaluation.objectives import ChangeFitness as ChangeFitness
    from smd_evo.evaluation.objectives import Objectives as Objectives
    from smd_evo.evaluation.rewards import RewardFitness as RewardFitness
    from smd_evo.evaluation.whole import WholeFitness as WholeFitness
    from smd_evo.integrations.deap.evaluator import ToolboxEvaluator as ToolboxEvaluator
    from smd_evo.integrations.deap.individuals import DenseIndividual as DenseIndividual
    from smd_evo.integrations.deap.individuals import LineageIndividual as LineageIndividual
    from smd_evo.integrations.deap.strategy import SubspaceStrategy as SubspaceStrategy
    from smd_evo.integrations.deap.variation import cxLineage as cxLineage
    from smd_evo.integrations.deap.variation import mutSparseGaussian as mutSparseGaussian
    from smd_evo.integrations.evotorch.evolution import SubspaceEvolution as SubspaceEvolution
    from smd_evo.integrations.evotorch.finetune import FinetuneProblem as FinetuneProblem
    from smd_evo.integrations.evotorch.functional import sparse_gaussian_mutation as sparse_gaussian_mutation
    from smd_evo.integrations.evotorch.newton import SubspaceNewton as SubspaceNewton
    from smd_evo.integrations.evotorch.operators import AddMutation as AddMutation
    from smd_evo.integrations.evotorch.operators import LineageCrossOver as LineageCrossOver
    from smd_evo.integrations.evotorch.operators import SparseGaussianMutation as SparseGaussianMutation
    from smd_evo.integrations.evotorch.staged import Staged as Staged
    from smd_evo.integrations.evotorch.strategies import OpenAIES as OpenAIES
    from smd_evo.integrations.evotorch.strategies import SubspaceES as SubspaceES
    from smd_evo.integrations.evotorch.subspace import SubspaceProblem as SubspaceProblem
    from smd_evo.integrations.generation import from_transformers as from_transformers
    from smd_evo.zoo.own import Splits as Splits
    from smd_evo.zoo.own import split as split

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what is told, and where, is the program's to say

_HOMES = {
    "compare": "smd_evo.api.functions",
    "evolve": "smd_evo.api.functions",
    "finetune": "smd_evo.api.functions",
    "window": "smd_evo.api.functions",
    "load_run": "smd_evo.api.runs",
    "Splits": "smd_evo.zoo.own",
    "split": "smd_evo.zoo.own",
    "SparseDelta": "smd_evo.core.delta",
    "derive": "smd_evo.core.keys",
    "Layout": "smd_evo.core.layout",
    "Slot": "smd_evo.core.layout",
    "LowRank": "smd_evo.core.lowrank",
    "Lineage": "smd_evo.core.mutation",
    "Mutation": "smd_evo.core.mutation",
    "decode_rows": "smd_evo.core.rows",
    "decompose": "smd_evo.core.mutation",
    "encode_rows": "smd_evo.core.rows",
    "sample_mutations": "smd_evo.core.mutation",
    "gaussian": "smd_evo.core.noise",
    "permutation": "smd_evo.core.noise",
    "ParameterSpace": "smd_evo.core.parameters",
    "Dense": "smd_evo.core.subspace",
    "NeuronSubspace": "smd_evo.core.structured",
    "PartitionSubspace": "smd_evo.core.subspace",
    "RandomSubspace": "smd_evo.core.subspace",
    "Subspace": "smd_evo.core.subspace",
    "TensorSubspace": "smd_evo.core.structured",
    "UnitSubspace": "smd_evo.core.units",
    "Within": "smd_evo.core.within",
    "within_kinds": "smd_evo.core.selection",
    "parse_subspace": "smd_evo.core.specs",
    "SparseEnsemble": "smd_evo.ensemble.module",
    "select_members": "smd_evo.ensemble.selection",
    "soup": "smd_evo.ensemble.soup",
    "calibrate_sigma": "smd_evo.evaluation.calibration",
    "Evaluator": "smd_evo.evaluation.evaluator",
    "TakeOutput": "smd_evo.evaluation.fields",
    "BatchFitness": "smd_evo.evaluation.fitness",
    "ModuleFitness": "smd_evo.evaluation.fitness",
    "WholeFitness": "smd_evo.evaluation.whole",
    "RewardFitness": "smd_evo.evaluation.rewards",
    "from_transformers": "smd_evo.integrations.generation",
    "ChangeFitness": "smd_evo.evaluation.objectives",
    "Objectives": "smd_evo.evaluation.objectives",
    "ParetoFront": "smd_evo.evaluation.front",
    "AddMutation": "smd_evo.integrations.evotorch.operators",
    "LineageCrossOver": "smd_evo.integrations.evotorch.operators",
    "SparseGaussianMutation": "smd_evo.integrations.evotorch.operators",
    "sparse_gaussian_mutation": "smd_evo.integrations.evotorch.functional",
    "FinetuneProblem": "smd_evo.integrations.evotorch.finetune",
    "SubspaceProblem": "smd_evo.integrations.evotorch.subspace",
    "SubspaceEvolution": "smd_evo.integrations.evotorch.evolution",
    "Staged": "smd_evo.integrations.evotorch.staged",
    "SubspaceNewton": "smd_evo.integrations.evotorch.newton",
    "SubspaceES": "smd_evo.integrations.evotorch.strategies",
    "OpenAIES": "smd_evo.integrations.evotorch.strategies",
    "DenseIndividual": "smd_evo.integrations.deap.individuals",
    "LineageIndividual": "smd_evo.integrations.deap.individuals",
    "SubspaceStrategy": "smd_evo.integrations.deap.strategy",
    "ToolboxEvaluator": "smd_evo.integrations.deap.evaluator",
    "cxLineage": "smd_evo.integrations.deap.variation",
    "mutSparseGaussian": "smd_evo.integrations.deap.variation",
}

__all__ = [*_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'smd_evo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
