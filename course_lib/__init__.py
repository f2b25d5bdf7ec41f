"""The package behind the course: one room a lesson, from one attention formula to a working RL loop."""
