"""Mathematics: environments with answers that can be checked."""

from cookbook import hookimpl


@hookimpl
def register_envs(register):
    register(
        "arithmetic",
        "cookbook_plugin_math.arithmetic:Arithmetic",
        "Sums of two numbers, worked examples in the prompt",
    )
    register(
        "countdown",
        "cookbook_plugin_math.countdown:Countdown",
        "An expression that makes a target from given numbers",
    )


@hookimpl
def register_graders(register):
    register(
        "integer", "cookbook_plugin_math.integer:Integer", "The reply is one integer, or ends in '= integer'"
    )
    register(
        "countdown",
        "cookbook_plugin_math.countdown:CountdownGrader",
        "The reply's expression makes the target from the given numbers",
    )

    register(
        "answer",
        "cookbook_plugin_math.answer:Answer",
        "The final answer equals the reference, as mathematics: exact, bounded, in killable workers",
    )
    register(
        "verify",
        "cookbook_plugin_math.answer:Verify",
        "math-verify's verdict, in killable workers",
        needs=("math-verify",),
    )


@hookimpl
def register_commands(register):
    register("grade", "cookbook_plugin_math.grade_command:main", "Grade one reply, and say why")


@hookimpl
def register_recipes(register):
    register(
        "arithmetic",
        "cookbook_plugin_math.recipes:arithmetic",
        "A small model learns to add, on this machine, without a key",
    )
    register("countdown", "cookbook_plugin_math.recipes:countdown", "Expressions that make a target")
