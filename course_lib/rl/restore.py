"""Resuming: the newest checkpoint that is not damaged, into the trainers."""

from functools import partial
from typing import Any

from course_lib.rl.run_folder import RunError, RunFolder
from course_lib.rl.world import World
from course_lib.training import PolicyTrainer, ValueTrainer


def restore(
    run: RunFolder, trainer: PolicyTrainer, critic: ValueTrainer | None = None, world: World | None = None
) -> dict[str, Any] | None:
    """Load the newest checkpoint into the trainers, and return the state that was saved with it; None where there is none.

    A checkpoint that is damaged is found before it is loaded, is set aside, and the one before it is loaded. Every rank
    calls this; all of them read all files, so that all come to the same end.

    Raises:
        RunError: no checkpoint is whole; or there is none, and the trainer has been trained; or the checkpoint was saved with
            another ZeRO stage or number of ranks; or DeepSpeed can't read it.
    """
    world = world or World()
    while (checkpoint := world.from_first(run.newest_checkpoint)) is not None:
        try:
            if critic is not None:
                critic.load(checkpoint / "critic")
            return trainer.load(checkpoint)
        except OSError as error:
            damage = str(error)
        except ValueError as error:
            raise RunError(str(error)) from error
        except Exception as error:
            raise RunError(
                f"the checkpoint {checkpoint} can't be loaded ({type(error).__name__}: {error}), and its files are as they were"
                " written. Resume with the versions of torch and DeepSpeed that wrote it, or delete that folder, make trainer"
                " and engine anew and resume from the checkpoint before it."
            ) from error
        world.from_first(partial(run.set_aside, checkpoint, damage))
    if trainer.steps:
        raise RunError(
            f"{run.path} has no checkpoint yet, so it would start again at step 0, but this trainer has taken {trainer.steps}"
            " steps: make trainer and engine anew, or start a run of another name."
        )
    return None
