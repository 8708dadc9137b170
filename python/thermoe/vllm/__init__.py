"""thermoe inside vLLM, as a plug-in: vLLM's processes load register through the entry point vllm.general_plugins. It
does nothing unless a variable THERMOE_VLLM_* asks for it (settings.py; docs/distributed.md)."""


def register():
    """Puts thermoe's routing into this process's vLLM. Raises thermoe.InvalidArgument for another version of vLLM, or
    settings that are none, which ends vLLM's start."""
    from . import plugin  # what follows needs vllm

    plugin.register()


__all__ = ["register"]
