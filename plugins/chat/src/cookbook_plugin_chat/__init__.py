"""Conversations, and supervised fine-tuning on them."""

from cookbook import hookimpl


@hookimpl
def register_datasets(register):
    register(
        "conversations",
        "cookbook_plugin_chat.conversations:Conversations",
        "Conversations from a JSONL file; without one, 346 in one house style",
    )


@hookimpl
def register_recipes(register):
    register(
        "sft",
        "cookbook_plugin_chat.recipes:sft",
        "A small model learns a house style, on this machine, without a key",
    )
