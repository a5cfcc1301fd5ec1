from cookbook_plugin_capitals.envs import Words

from cookbook.testing import play


def test_a_word_in_capitals_is_right_and_nothing_else_is():
    task = Words().tasks("train")[0]
    assert play(task, ["APPLE"]).reward == 1.0
    assert play(task, ["apple"]).reward == play(task, ["BREAD"]).reward == play(task, [""]).reward == 0.0


def test_no_word_is_both_trained_on_and_held_out():
    assert not set(Words().tasks("train")) & set(Words().tasks("test"))
