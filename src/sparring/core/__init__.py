"""The one idea: a game between a learner and an adversary over a payoff. Torch only; imports nothing above it."""
