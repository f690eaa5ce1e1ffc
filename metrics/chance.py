"""What guessing reaches, against which privacy is read. Imports nothing, so that policies can use it."""

EER_CHANCE = 0.5


def linkability_chance(population: int) -> float:
    """Return how often a guess among `population` people is right: 1 / population."""
    return 1.0 / population


def singling_out_chance(population: int) -> float:
    """Return how often a rule that fits each of N people with probability 1/N fits exactly one: (1 - 1/N)^(N - 1).

    0.5 for two people, falling to exp(-1) = 0.368 for many (Cohen and Nissim 2020; Vauquier et al., Interspeech 2025).
    """
    return (1.0 - 1.0 / population) ** (population - 1)
