"""What a training does with each of its samples: memorisation of wrong labels, and a record of every sample."""

from en_bench.dynamics.files import dynamics_facts, ratio_columns, read_dynamics
from en_bench.dynamics.memorisation import Memorisation
from en_bench.dynamics.recorder import DynamicsRecorder

__all__ = ["DynamicsRecorder", "Memorisation", "dynamics_facts", "ratio_columns", "read_dynamics"]
