from mindone_ddpm.common import environment  # noqa: F401  sets variables before MindSpore is imported
