"""Mathematics: environments with answers that can be checked."""

from cookbook import hookimpl


@hookimpl
def register_envs(register):
    register(
        "arithmetic",
        "cookbook_plugin_math.arithmetic:Arithmetic",
        "Sums of two numbers, worked examples in the prompt",
    )
    register("gsm8k", "cookbook_plugin_math.sets:GSM8K", "Grade-school word problems, openai/gsm8k")
    register(
        "math",
        "cookbook_plugin_math.sets:Hendrycks",
        "Competition problems, EleutherAI/hendrycks_math; MATH-500 is held out",
    )
    register(
        "polaris",
        "cookbook_plugin_math.sets:Polaris",
        "Hard problems for reinforcement learning, POLARIS-Project/Polaris-Dataset-53K",
    )
    register("deepmath", "cookbook_plugin_math.sets:DeepMath", "Hard problems, zwhe99/DeepMath-103K")
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
    register("gsm8k", "cookbook_plugin_math.recipes:gsm8k", "Grade-school word problems")
    register("math", "cookbook_plugin_math.recipes:hendrycks", "Competition problems, MATH-500 held out")
    register("polaris", "cookbook_plugin_math.recipes:polaris", "53,000 hard problems")
    register("deepmath", "cookbook_plugin_math.recipes:deepmath", "103,000 hard problems")
    register("countdown", "cookbook_plugin_math.recipes:countdown", "Expressions that make a target")
