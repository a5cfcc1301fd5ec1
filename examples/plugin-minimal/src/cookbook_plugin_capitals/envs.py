import chz

from cookbook import EnvConfig, Grade, Question

WORDS = "apple bread chair drum eagle flame glass house island jacket kite lemon mouse night".split()


class Same:
    def grade(self, prompt, reply, reference):
        return Grade(reply["content"].strip() == reference)


@chz.chz
class Words(EnvConfig):
    def tasks(self, split):
        words = {"train": WORDS[:10], "test": WORDS[10:]}[split]
        return [
            Question(f"Write {word} in capital letters, nothing else.", word.upper(), Same())
            for word in words
        ]
