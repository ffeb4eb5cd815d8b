"""Hubs of models and data sets, behind one interface. This module has their names alone, which settings need."""

HUBS = ("huggingface", "modelscope", "modelers")
HUGGINGFACE, MODELSCOPE, MODELERS = HUBS
TOKEN_VARIABLES = {
    HUGGINGFACE: "HF_TOKEN",
    MODELSCOPE: "MODELSCOPE_API_TOKEN",
    MODELERS: "OPENMIND_HUB_TOKEN",  # this package's; the client has none
}
