#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Are chat templates rendered as jinja2 renders them, set up as Hugging Face sets it up?

    template_parity.py RENDER [--count N] [--seed S]     on N templates drawn from a grammar
    template_parity.py RENDER --template FILE ...        on these templates (a GGUF file: the one it carries), with conversations

RENDER is the program bench/render_templates (`make bench/render_templates`). Needs jinja2, for a GGUF file gguf too. Where jinja2 fails
Sakiori has to refuse; where Sakiori says that something is not supported it counts apart. Exit code 1 where anything differs.
"""
import argparse
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden"))
from make_templates import CALL, CONTEXTS, PLAIN, TOOLS, drawn, render  # noqa: E402


def read_template(path):
    if not path.endswith(".gguf"):
        return open(path, encoding="utf-8", newline="").read()
    from gguf import GGUFReader
    return GGUFReader(path).fields["tokenizer.chat_template"].contents()


def conversations():
    def user(text):
        return {"role": "user", "content": text}

    def assistant(text, **more):
        return {"role": "assistant", "content": text, **more}
    system = {"role": "system", "content": " You are é helpful. "}
    result = {"role": "tool", "name": "weather", "tool_call_id": CALL["id"], "content": "{\"t\": 3}"}
    yield from ([user("Hi")], [system, user(" Hi\n"), assistant("Hello. "), user("Bye")], [assistant("Hi")], [system], [],
                [user("Hi"), assistant("<think>\nhm\n</think>\n\nHello"), user("x"), assistant("y")],
                [system, user("?"), assistant("", tool_calls=[CALL]), result, assistant("It is 3.")],
                [system, user("?"), assistant(None, tool_calls=[CALL]), result], [system, user("a"), user("b")],
                [user([{"type": "text", "text": "part"}, {"type": "image"}]), assistant([{"type": "text", "text": "ok"}])],
                [user("a"), assistant("b", reasoning_content="r"), user("c"), assistant("d", reasoning_content="rr")])


def template_cases(paths):
    for path in paths:
        template = read_template(path)
        for messages in conversations():
            for answer in (True, False):
                for tools in (None, TOOLS):
                    yield template, {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": answer,
                                     "bos_token": "<s>", "eos_token": "</s>"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("render")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--template", nargs="+")
    a = parser.parse_args()
    cases = list(template_cases(a.template)) if a.template else [(t, CONTEXTS[0]) for t in drawn(a.seed, a.count)]
    lines = "".join(json.dumps({"template": t, "context": c}) + "\n" for t, c in cases)
    out = subprocess.run([a.render], input=lines.encode(), stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()
    equal = failed = unsupported = 0
    for (template, context), line in zip(cases, out):
        found = json.loads(line)
        text, failure = render(template, context, PLAIN)
        if text is not None and found.get("text") == text:
            equal += 1
        elif text is None and "error" in found:
            failed += 1
        elif found.get("unsupported"):
            unsupported += 1
        else:
            print(f"{template!r}\n  jinja2:  {failure or text!r}\n  Sakiori: {found}")
    differ = len(cases) - equal - failed - unsupported
    print(f"{len(cases)} renderings: {equal} equal, {failed} refused by both, {unsupported} not supported, {differ} differ")
    sys.exit(differ > 0 or len(out) != len(cases))


if __name__ == "__main__":
    main()
