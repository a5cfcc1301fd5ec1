"""What a plugin is held to: each rule, how it is mended, and what was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """says: what holds for what keeps the rule. mend: what to do about one that doesn't.
    warns: it is told, and fails nothing."""

    says: str
    mend: str
    warns: bool = False


RULES: dict[str, Rule] = {
    # L0, what can be told without running it
    "L0.loads": Rule("the plugin loads", "mend what the example says; `cookbook plugins` shows it too"),
    "L0.hooks": Rule(
        "every hook carries @hookimpl and registers something",
        "write @cookbook.hookimpl above each register_...",
    ),
    "L0.clash": Rule("one dist claims a namespace", "choose another namespace, or uninstall the other dist"),
    "L0.core-bound": Rule(
        "the dist bounds cookbook-core from both sides", 'dependencies = ["cookbook-core>=0.1,<0.2"]'
    ),
    "L0.licence": Rule("the dist says its licence", 'license = "Apache-2.0" in [project]'),
    "L0.import-time": Rule(
        "the package imports in a second", "move imports into the modules that the rows name"
    ),
    "L0.prints": Rule("importing the package prints nothing", "take the print out"),
    "L0.heavy-import": Rule(
        "registering imports nothing heavy", "move that import into the module that a row names"
    ),
    "L0.network": Rule("importing the package opens no connection", "load data in tasks(), not at import"),
    "L0.target": Rule(
        "what a row names can be imported and is of its kind",
        'register(name, "package.module:Attribute", ...) must name what there is',
    ),
    # L1, the protocol
    "L1.build": Rule("it is built with its defaults", "give every option a default that works"),
    "L1.tasks": Rule(
        'tasks("train") and tasks("test") are sequences of tasks, the first with one at least',
        "return a list of Question, say, and an empty one where nothing is held out",
    ),
    "L1.held-out": Rule(
        'tasks("test") holds something to evaluate on', "keep some tasks out of training", warns=True
    ),
    "L1.config-json": Rule(
        "the config survives JSON", "use options of numbers, texts, booleans, tuples and chz classes"
    ),
    "L1.typed-errors": Rule(
        "an option that can't be ends in an error that says so",
        "raise cookbook.errors.ConfigError in a @chz.validate method",
    ),
    "L1.table": Rule("table() makes an environment a seat", "return a list of `seats` new environments"),
    "L1.fresh": Rule(
        "each table has environments of its own: one is played once, and many at a time",
        "make a new environment in table()",
    ),
    "L1.start": Rule(
        "start() gives messages", 'return [{"role": "user", "content": "..."}], from an `async def start`'
    ),
    "L1.opening": Rule(
        "the opening ends on a turn that the model answers", "end it with a message of the user or of a tool"
    ),
    "L1.renders": Rule(
        "the opening has a form in a chat format", "use the roles system, user, assistant and tool"
    ),
    "L1.step": Rule(
        "step(reply) gives a Step, with a message to reply to unless it is done",
        "return Step(reward=..., done=..., messages=[...]), from an `async def step`",
    ),
    "L1.raises": Rule("ordinary replies raise nothing", "catch what a reply can cause, and reward it with 0"),
    "L1.close": Rule(
        "close() can be called at any time, once", "let close() work where start() never was called"
    ),
    # L2, determinism
    "L2.prompts": Rule(
        "built twice, the prompts are the same",
        "draw from random.Random(seed) of the config, not from `random`",
    ),
    "L2.order": Rule(
        "a task doesn't depend on what was built or read before it",
        "make task i from (seed, i) alone: random.Random(f'{seed} {i}')",
    ),
    "L2.processes": Rule(
        "another process gives the same prompts", "sort sets before you use their order; don't use hash()"
    ),
    "L2.replay": Rule(
        "the same replies to the same task lead to the same episode",
        "keep an episode's state in its environment, and its chance in random.Random(...) of its own",
    ),
    "L2.global-random": Rule(
        "an episode doesn't depend on the process's random state",
        "use random.Random(seed) of the environment's own, or numpy's default_rng(seed)",
    ),
    "L2.interleaved": Rule(
        "episodes played at once are the same as played alone",
        "share no state; around each call of a library that uses `random`, swap in a state of its own",
    ),
    "L2.pickle": Rule(
        "tasks pickle", "hold plain data in tasks; open files and clients in the environment", warns=True
    ),
    "L2.leak": Rule(
        "train and test share no task",
        "split by a hash of the question; ranges of seeds or indices may make equal ones",
    ),
    # L3, rewards
    "L3.oracle": Rule(
        "the reference answer gets the best reward, the upper end of reward_range",
        "mend the grader, give Question(answer=...), or declare reward_range",
    ),
    "L3.empty": Rule("an empty reply doesn't win", "reward only what holds an answer"),
    "L3.garbage": Rule(
        "garbage, enormous texts and calls of unknown tools don't win", "reward only what holds an answer"
    ),
    "L3.echo": Rule(
        "the prompt itself doesn't win", "compare the whole answer, or only what stands where it is asked for"
    ),
    "L3.constant": Rule(
        "no one reply wins whatever is asked", "balance the answers, or reward less what needs no thought"
    ),
    "L3.crash": Rule(
        "nothing that a model says raises",
        "return Grade(False) for what can't be read; catch ValueError, TypeError",
    ),
    "L3.finite": Rule(
        "a reward is a finite number, or None for no verdict",
        "check for nan before you return; None says no verdict",
    ),
    "L3.range": Rule(
        "rewards lie in reward_range", "declare reward_range = (least, largest) in the config's class"
    ),
    "L3.slow": Rule(
        "a step takes less than a second, since all episodes wait for it",
        "await slow work, or do it in a process of a pool",
        warns=True,
    ),
    "L3.hangs": Rule("a step comes to an end", "bound what you search, match or wait for"),
    "L3.no-verdict": Rule(
        "most replies get a verdict",
        "return Grade(False) for what is wrong; undecided is for what nobody can know",
    ),
    "L3.variance": Rule(
        "rewards differ within groups: a group without variance teaches nothing",
        "reward what is better with more",
    ),
    "L3.verdict": Rule(
        "a right reply is never rewarded less than a wrong one", "correct=True goes with the larger reward"
    ),
    # L4, cost
    "L4.history": Rule(
        "a message says what is new: the model has seen the rest",
        "send only the new observation; the loop keeps the conversation",
        warns=True,
    ),
    # graders
    "L1.grader-builds": Rule("a grader builds with its defaults", "give each option a default"),
    "L1.grader-type": Rule("grade() gives a cookbook.Grade", "return Grade(True), Grade(False), ..."),
    "L3.grader-raises": Rule(
        "no reply makes a grader raise", 'what can\'t be read is wrong, or Grade("undecided")'
    ),
    "L3.grader-hangs": Rule(
        "a grade is over within 10 s", "bound the length of what is read, and every search"
    ),
    "L3.grader-slow": Rule(
        "a grade that isn't awaited takes less than a second",
        "bound the length of what is read; do what is slow in another process",
        warns=True,
    ),
    "L3.grader-nan": Rule("a reward is a finite number, or None", "give what has no verdict no reward"),
    "L3.grader-junk": Rule(
        "nothing, garbage and the prompt's own words are never right",
        "look for the answer itself, not for a word in the reply",
    ),
    "L3.grader-verdict": Rule("the verdict is what the author's cases say", "mend the grader, or the case"),
    # renderers
    "L1.renderer-builds": Rule(
        "a renderer is made of a tokenizer, and renders a conversation", "mend what the example raises"
    ),
    "L1.renderer-parse": Rule(
        "parse_response raises on no tokens, and gives an assistant's message with a text",
        "what can't be read is content, and `Parsed.problem` says what is wrong",
    ),
    "L1.renderer-prompt": Rule(
        "the tokens before a trained reply are the prompt it is sampled after",
        "write history and the last reply's header alike in prompts and in examples",
    ),
    "L1.renderer-weights": Rule(
        "one weight a token: 1 on a trained reply, 0 on all else, and 0 all over a prompt",
        "begin(i, reply=True) before each reply, header() for what a prompt gives",
    ),
    "L1.renderer-stop": Rule(
        "a trained reply ends with a stop of weight 1",
        "write the stop after a reply with stop(), and give it in get_stop_sequences()",
    ),
    "L1.renderer-control": Rule(
        "what somebody says never becomes a control token",
        "write others' words with text(), not with header()",
    ),
    "L1.renderer-bridge": Rule(
        "tokens so far + bridge = the prompt of the whole, or there is no bridge",
        "give None where the format edits what came before",
    ),
    "L1.renderer-round-trip": Rule(
        "a reply is read as it was said", "read what _write writes; declare an exception where a format can't"
    ),
    # datasets
    "L1.dataset-builds": Rule("a dataset builds with its defaults", "give each option a default"),
    "L1.dataset-rows": Rule(
        "rows(split) gives conversations: of train at least one, of test some or none",
        'a conversation is a list of {"role": ..., "content": ...}',
    ),
    "L1.dataset-learns": Rule(
        "each conversation has a reply to learn", "leave those without an assistant message out"
    ),
    "L1.dataset-json": Rule(
        "the config survives JSON", "options are numbers, texts, booleans and tuples of them, or configs"
    ),
    "L2.dataset-same": Rule("the same config gives the same rows", "shuffle by a seed, never by the clock"),
    "L2.dataset-split": Rule(
        "no row is in both splits", "split by what is in a row, or by its place, whatever the seed"
    ),
    # recipes
    "L1.recipe-builds": Rule("a recipe gives a chz.Blueprint", "return preset(RLConfig, name=..., ...)"),
    "L1.recipe-settles": Rule(
        "its ids exist and its values build a config",
        "mend the value; model=, env= and data= may be left to the user",
    ),
    "L1.recipe-local": Rule(
        "with --local its values build a config", "local={...} names options of the config, {'env.digits': 1}"
    ),
    "L1.recipe-json": Rule("its values survive JSON", "write numbers, texts, booleans and tuples of them"),
    # backends
    "L1.backend-connects": Rule(
        "it gives a tokenizer, and a training client in a `with`", "mend what the example raises"
    ),
    "L1.backend-calls": Rule(
        "every call that the loops make is there and works", "mend what the example raises"
    ),
    "L1.backend-sample": Rule(
        "a sample keeps max_tokens, ends at a stop and says which it was",
        'stop_reason is "stop" where its last token is a stop, else "length"',
    ),
    "L1.backend-logprobs": Rule(
        "each sampled token has its log-probability: finite, at temperature 1, that of compute_logprobs",
        "take log softmax of the logits as they are, before temperature and top_p",
    ),
    "L1.backend-forward": Rule(
        "forward and forward_backward give each target's log-probability by the weights as they are",
        "logprobs[t] is that of target_tokens[t] after model_input[: t + 1]",
    ),
    "L1.backend-trains": Rule(
        "forward_backward and optim_step raise the probability of what is rewarded",
        "step against the gradient of the summed loss",
    ),
    "L1.backend-idle": Rule(
        "advantages of 0, and a learning rate of 0, change no weights",
        "clear the gradient in optim_step; decay only by the weight_decay that is asked for",
    ),
    "L1.backend-restores": Rule(
        "what save_state keeps comes back, the optimizer's state too", "save weights and moments together"
    ),
    "L1.backend-version": Rule(
        "a sampling client keeps its weights while training goes on",
        "copy the weights when they are published",
    ),
    "L2.backend-seed": Rule("the same seed gives the same sample", "key the random stream by the seed alone"),
    "L2.backend-greedy": Rule("temperature 0 takes the likeliest token", "take the argmax of the logits"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that something breaks. rule: of `RULES`, "L3.constant". example: the smallest there is."""

    rule: str
    example: str

    @property
    def warns(self) -> bool:
        """Whether it fails nothing."""
        return RULES[self.rule].warns

    def __str__(self) -> str:
        rule = RULES[self.rule]
        kind = "warning" if rule.warns else "FAILED"
        return f"{kind} {self.rule}: {self.example}\n  rule: {rule.says}\n  mend: {rule.mend}"


@dataclass(slots=True)
class Report:
    """What was found of one thing that was checked.

    facts: what was measured, by name. unchecked: rules that couldn't be looked at, and why.
    """

    where: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)

    def find(self, rule: str, example: str) -> None:
        """Notes that a rule is broken; the first example of each rule is kept."""
        if all(finding.rule != rule for finding in self.findings):
            self.findings.append(Finding(rule, " ".join(example.split())))

    def found(self, *rules: str) -> bool:
        """Whether one of these is broken."""
        return any(finding.rule in rules for finding in self.findings)

    @property
    def failed(self) -> bool:
        return any(not finding.warns for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        found = [asdict(f) | {"says": RULES[f.rule].says, "mend": RULES[f.rule].mend} for f in self.findings]
        for each, finding in zip(found, self.findings, strict=True):
            each["warns"] = finding.warns
        return {"where": self.where, "failed": self.failed, "findings": found, "facts": self.facts,
                "unchecked": self.unchecked}  # fmt: skip
