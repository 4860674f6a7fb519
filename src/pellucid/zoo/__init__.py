"""Small reference models, trained from a seed by code that is here, kept in the user's cache folder."""

from pellucid.zoo import tabular, text, vision
from pellucid.zoo.loading import SubjectFacts, data, load, record, subject_facts
from pellucid.zoo.recipe import Recipe, names

__all__ = ["Recipe", "SubjectFacts", "data", "load", "names", "record", "subject_facts", "tabular", "text", "vision"]
