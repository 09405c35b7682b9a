#!/usr/bin/env python3
"""Runs the official `openai` package against a server and checks that it gets what it expects.

    pip install openai==3.57.0
    python xtools/check_serve.py --sol target/release/sol -m smollm2         # starts `sol serve` and ends it
    python xtools/check_serve.py --url http://127.0.0.1:8000/v1              # one that runs
    python xtools/check_serve.py --url http://127.0.0.1:8080/v1 --keep-going # what another server makes of the same requests

The exit code is the number of checks that failed. The package parses strictly enough that a missing or mistyped field of an
answer shows as an exception or a None where a value is looked at.
"""

import argparse
import concurrent.futures
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import traceback
from typing import Annotated, Literal

import openai
import pydantic

KEY = "check-serve"
HELLO = [{"role": "user", "content": "Name three colours of the rainbow, in one short sentence."}]
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def refused(kind, call, part="", param=None):
    try:
        call()
    except kind as error:
        body = error.body or {}
        assert part in str(error), f"{part!r} is not in {error}"
        assert body.get("message") and body.get("type"), f"no message and type in {body}"
        if param:
            assert (body.get("param") or "").startswith(param), f"param is {body.get('param')}, not {param}"
        return error
    raise AssertionError(f"no {kind.__name__}")


@check
def models(client, model):
    listed = client.models.list()
    assert model in [entry.id for entry in listed.data]
    entry = client.models.retrieve(model)
    assert entry.object == "model" and entry.created > 1_600_000_000 and entry.owned_by
    refused(openai.NotFoundError, lambda: client.models.retrieve("org/none"), "org/none")


@check
def chat(client, model):
    answer = client.chat.completions.create(model=model, messages=HELLO, max_completion_tokens=40, temperature=0)
    (choice,) = answer.choices
    assert answer.object == "chat.completion" and answer.id and answer.model == model
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens and usage.completion_tokens <= 40
    again = client.chat.completions.create(model=model, messages=HELLO, max_completion_tokens=40, temperature=0)
    assert again.choices[0].message.content == choice.message.content
    assert again.usage.prompt_tokens_details.cached_tokens > 0, "a repeated prompt is not cached"
    one = client.chat.completions.create(model=model, messages=HELLO, max_tokens=1)
    assert one.choices[0].finish_reason == "length" and one.usage.completion_tokens == 1


@check
def chat_stream(client, model):
    arguments = {"model": model, "messages": HELLO, "max_completion_tokens": 40, "temperature": 0.9, "seed": 3, "top_p": 0.95}
    whole = client.chat.completions.create(**arguments).choices[0]
    stream = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **arguments)
    chunks = list(stream)
    *pieces, last = chunks
    assert last.choices == [] and last.usage.completion_tokens > 0, last
    assert all(piece.usage is None and len({c.id for c in chunks}) == 1 for piece in pieces)
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == whole.message.content, f"{text!r} is not {whole.message.content!r}"
    assert pieces[-1].choices[0].finish_reason == whole.finish_reason
    assert all(piece.choices[0].finish_reason is None for piece in pieces[:-1])


@check
def chat_helper_stream(client, model):
    # The helper takes an answer that was cut for length as an error.
    arguments = {"max_completion_tokens": 60, "temperature": 0, "stop": [",", ".", " a"]}
    with client.chat.completions.stream(model=model, messages=HELLO, **arguments) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.delta" in kinds and final.choices[0].message.content, kinds


@check
def choices(client, model):
    answer = client.chat.completions.create(model=model, messages=HELLO, n=3, max_tokens=24, temperature=1.2, seed=11)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(texts)) > 1, texts
    alone = client.chat.completions.create(model=model, messages=HELLO, max_tokens=24, temperature=1.2, seed=11)
    assert alone.choices[0].message.content == texts[0]


@check
def stops_and_bias(client, model):
    free = client.chat.completions.create(model=model, messages=HELLO, max_tokens=30, temperature=0).choices[0]
    words = free.message.content.split()
    stop = words[2]
    for given in (stop, ["nothing like it", stop]):
        cut = client.chat.completions.create(model=model, messages=HELLO, max_tokens=30, temperature=0, stop=given).choices[0]
        assert cut.finish_reason == "stop" and cut.message.content == free.message.content.split(stop)[0], cut
    first = client.chat.completions.create(model=model, messages=HELLO, max_tokens=1, logprobs=True, temperature=0)
    token = first.choices[0].logprobs.content[0].token
    ids = client.post("/../tokenize", body={"prompt": token, "add_special_tokens": False}, cast_to=object)["tokens"]
    other = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=1, logprobs=True, temperature=0, logit_bias={str(ids[0]): -100}
    )
    assert other.choices[0].logprobs.content[0].token != token


@check
def chat_logprobs(client, model):
    answer = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=8, temperature=0, logprobs=True, top_logprobs=4
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert "".join(entry.token for entry in content).strip() == answer.choices[0].message.content.strip()
    for entry in content:
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
        assert len(entry.top_logprobs) == 4 and entry.top_logprobs[0].token == entry.token
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1.0001


@check
def completions(client, model):
    answer = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0)
    text = answer.choices[0].text
    assert answer.object == "text_completion" and text and answer.usage.completion_tokens == 12
    assert client.completions.create(model=model, prompt="Once upon a time", temperature=0).usage.completion_tokens == 16
    ids = client.post("/../tokenize", body={"prompt": "Once upon a time"}, cast_to=object)["tokens"]
    for prompt, count in ((ids, 1), ([ids, ids], 2), (["Once upon a time", "Two"], 2)):
        many = client.completions.create(model=model, prompt=prompt, max_tokens=12, temperature=0)
        assert len(many.choices) == count and many.choices[0].text == text, prompt
    stream = client.completions.create(model=model, prompt="Once upon a time", max_tokens=12, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == text


@check
def echo(client, model):
    prompt = "The sky is blue and the grass is green."
    answer = client.completions.create(model=model, prompt=prompt, max_tokens=1, temperature=0, echo=True, logprobs=3)
    choice, lists = answer.choices[0], answer.choices[0].logprobs
    assert choice.text.startswith(prompt)
    count = answer.usage.prompt_tokens + 1
    assert len(lists.tokens) == len(lists.token_logprobs) == len(lists.top_logprobs) == len(lists.text_offset) == count
    assert lists.token_logprobs[0] is None and all(value <= 0 for value in lists.token_logprobs[1:])
    for token, offset in zip(lists.tokens, lists.text_offset):
        assert choice.text.startswith(token, offset), (token, offset)


class Address(pydantic.BaseModel):
    city: Annotated[str, pydantic.Field(max_length=20)]


class Person(pydantic.BaseModel):
    name: Annotated[str, pydantic.Field(max_length=20)]
    age: Annotated[int, pydantic.Field(ge=0, le=120)]
    kind: Literal["adult", "child"]
    address: Address | None


ASK_PERSON = [{"role": "user", "content": "Anna is 34 and lives in Bonn. Describe her as JSON."}]


@check
def forms(client, model):
    # The client makes the schema of the class and refuses an answer that does not fit.
    for temperature in (0, 1.5):
        arguments = {"model": model, "messages": ASK_PERSON, "temperature": temperature, "seed": 3, "max_tokens": 400}
        answer = client.chat.completions.parse(response_format=Person, **arguments).choices[0]
        assert answer.finish_reason == "stop" and isinstance(answer.message.parsed, Person), answer
        with client.chat.completions.stream(response_format=Person, **arguments) as stream:
            last = [event for event in stream][-1]
            assert last.type == "content.done" and last.parsed == answer.message.parsed, last
    answer = client.chat.completions.create(
        model=model, messages=ASK_PERSON, response_format={"type": "json_object"}, max_tokens=400, temperature=0
    ).choices[0]
    assert answer.finish_reason == "length" or isinstance(json.loads(answer.message.content), dict), answer
    for extra, pattern in (
        ({"guided_choice": ["positive", "negative"]}, "positive|negative"),
        ({"guided_regex": r"[A-Z][a-z]{2,9}, \d{4}"}, r"[A-Z][a-z]{2,9}, \d{4}"),
        ({"guided_grammar": 'start: NUMBER ("+" NUMBER){1,3}\nNUMBER: /[0-9]{1,3}/'}, r"\d{1,3}(\+\d{1,3}){1,3}"),
    ):
        chat = client.chat.completions.create(model=model, messages=HELLO, max_tokens=60, temperature=1, extra_body=extra)
        plain = client.completions.create(model=model, prompt="Once", max_tokens=60, temperature=1, extra_body=extra)
        for choice, text in ((chat.choices[0], chat.choices[0].message.content), (plain.choices[0], plain.choices[0].text)):
            assert choice.finish_reason == "stop" and re.fullmatch(pattern, text), (extra, text)


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: Annotated[str, pydantic.Field(max_length=20)]
    unit: Literal["celsius", "fahrenheit"]


class Clock(pydantic.BaseModel):
    """The time."""

    zone: Literal["UTC", "CET"]


@check
def tools(client, model):
    offered = [openai.pydantic_function_tool(Weather), openai.pydantic_function_tool(Clock)]
    question = [{"role": "user", "content": "What is the weather in Bonn, in celsius?"}]
    for choice, kinds in (("required", (Weather, Clock)), ({"type": "function", "function": {"name": "Weather"}}, (Weather,))):
        arguments = {"model": model, "messages": question, "tools": offered, "tool_choice": choice, "max_tokens": 300}
        for temperature in (0, 1.5):
            answer = client.chat.completions.parse(temperature=temperature, seed=1, **arguments).choices[0]
            assert answer.finish_reason == "tool_calls" and answer.message.content is None, answer
            assert all(isinstance(call.function.parsed_arguments, kinds) for call in answer.message.tool_calls), answer
            with client.chat.completions.stream(temperature=temperature, seed=1, **arguments) as stream:
                final = (list(stream), stream.get_final_completion())[1].choices[0].message
            said = lambda message: [(call.function.name, call.function.arguments) for call in message.tool_calls]
            assert said(final) == said(answer.message) and final.tool_calls[0].id, final
    call = answer.message.tool_calls[0]
    back = question + [
        answer.message.model_dump(exclude_none=True, exclude={"parsed"}),
        {"role": "tool", "tool_call_id": call.id, "content": "rain, 12 degrees"},
    ]
    for choice in ("auto", "none"):
        reply = client.chat.completions.create(model=model, messages=back, tools=offered, tool_choice=choice, max_tokens=60)
        assert reply.choices[0].message.content or reply.choices[0].message.tool_calls, reply
RESPONSE_EVENTS = "created in_progress output_item.added content_part.added output_text.delta output_text.done content_part.done output_item.done"


@check
def responses(client, model):
    arguments = {"model": model, "max_output_tokens": 24, "temperature": 0}
    answer = client.responses.create(input=HELLO, **arguments)
    assert answer.object == "response" and answer.status in ("completed", "incomplete") and answer.output_text
    assert answer.output[0].role == "assistant" and answer.output[0].content[0].annotations == []
    usage = answer.usage
    assert usage.input_tokens + usage.output_tokens == usage.total_tokens and usage.output_tokens <= 24
    assert usage.output_tokens_details.reasoning_tokens == 0
    chat = client.chat.completions.create(model=model, messages=HELLO, max_tokens=24, temperature=0)
    assert chat.choices[0].message.content == answer.output_text
    again = client.responses.create(input=HELLO[0]["content"], **arguments)
    assert again.output_text == answer.output_text and again.usage.input_tokens_details.cached_tokens > 0
    events = list(client.responses.create(input=HELLO, stream=True, **arguments))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [f"response.{name}" for name in RESPONSE_EVENTS.split()] + [f"response.{answer.status}"], kinds
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == answer.output_text
    assert events[-1].response.output_text == answer.output_text and events[-1].response.usage.total_tokens
    # The helper wants an answer that was not cut for length.
    ends = {"model": model, "input": HELLO, "temperature": 0, "max_output_tokens": 60, "extra_body": {"stop": [",", ".", " a"]}}
    with client.responses.stream(**ends) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text == client.responses.create(**ends).output_text != ""
    turns = [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}, {"role": "assistant", "content": "y"}, *HELLO]
    assert client.responses.create(input=turns, **arguments).output_text
    refused(openai.BadRequestError, lambda: client.responses.create(input="x", previous_response_id="resp_1", **arguments), "not kept", "previous_response_id")
    schema = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    refused(openai.BadRequestError, lambda: client.responses.create(input="x", text=schema, **arguments), "", "text.format")


@check
def embeddings(client, model):
    texts = ["A cat sat on the mat.", "A kitten sat on the rug.", "Compound interest accrues monthly."]
    # The package asks for base64 where nobody says how.
    packed = client.embeddings.create(model=model, input=texts)
    plain = client.embeddings.create(model=model, input=texts, encoding_format="float")
    assert [entry.index for entry in packed.data] == [0, 1, 2] and packed.usage.prompt_tokens == packed.usage.total_tokens > 10
    for one, other in zip(packed.data, plain.data):
        assert all(abs(a - b) < 1e-7 for a, b in zip(one.embedding, other.embedding, strict=True))
        assert abs(math.hypot(*one.embedding) - 1) < 1e-5
    ids = client.post("/../tokenize", body={"prompt": texts[0]}, cast_to=object)["tokens"]
    for given in (texts[0], ids, [ids]):
        (one,) = client.embeddings.create(model=model, input=given, encoding_format="float").data
        assert one.embedding == plain.data[0].embedding, given
    refused(openai.BadRequestError, lambda: client.embeddings.create(model=model, input="x", dimensions=8), "dimensions", "dimensions")
    refused(openai.BadRequestError, lambda: client.embeddings.create(model=model, input=""), "empty", "input")


@check
def errors(client, model):
    def ask(**more):
        return lambda: client.chat.completions.create(**{"model": model, "messages": HELLO, "max_tokens": 2, **more})

    bad = openai.BadRequestError
    refused(openai.NotFoundError, ask(model="gpt-none"), "gpt-none", "model")
    refused(bad, ask(max_tokens=0), "max_tokens", "max_tokens")
    refused(bad, ask(max_tokens=-1), "max_tokens", "max_tokens")
    refused(bad, ask(n=1000), "1000", "n")
    refused(bad, ask(temperature=9), "temperature", "temperature")
    refused(bad, ask(temperature="hot"), "temperature", "temperature")
    refused(bad, ask(stop=["x"] * 10_000), "stop", "stop")
    refused(bad, ask(messages=[]), "messages", "messages")
    refused(bad, ask(messages=[{"role": "user", "content": "word " * 200_000}]), "context")
    refused(bad, ask(tool_choice="required"), "tools", "tool_choice")
    impossible = {"type": "integer", "minimum": 2, "maximum": 1}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": impossible, "strict": True}}
    refused(bad, ask(response_format=schema), "response_format", "response_format.json_schema.schema")
    refused(bad, ask(extra_body={"guided_regex": "("}), "guided_regex", "guided_regex")
    refused(bad, lambda: client.completions.create(model=model, prompt="x", suffix="y"), "suffix", "suffix")
    refused(openai.AuthenticationError, lambda: client.with_options(api_key="wrong").models.list(), "key")
    refused(openai.NotFoundError, lambda: client.post("/nothing", body={}, cast_to=object))
    refused(openai.APIStatusError, lambda: client.get("/completions", cast_to=object))


@check
def many_at_once(client, model):
    def ask(i):
        messages = [{"role": "user", "content": f"Count from {i} to {i + 5}."}]
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=16, temperature=0.7, seed=i)
        return answer.choices[0].message.content

    alone = [ask(i) for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as crew:
        assert list(crew.map(ask, range(8))) == alone


@check
def bad_input_disturbs_nobody(client, model):
    address = (client.base_url.host, client.base_url.port)
    head = {"Content-Type": "application/json", "Authorization": f"Bearer {client.api_key}"}

    def status(body, headers=head, path="/v1/chat/completions"):
        connection = http.client.HTTPConnection(*address, timeout=60)
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        error = json.loads(response.read())["error"]
        assert error["message"] and error["type"], error
        return response.status

    def text(i):
        extra = {"ignore_eos": True}
        stream = client.completions.create(model=model, prompt=f"Story {i}", max_tokens=200, seed=i, temperature=0.9, stream=True, extra_body=extra)
        return "".join(chunk.choices[0].text for chunk in stream if chunk.choices)

    def chat_of(**more):
        return json.dumps({"messages": HELLO, "max_tokens": 2, **more}).encode()

    alone = [text(i) for i in range(4)]
    slow = [socket.create_connection(address) for _ in range(50)]
    for connection in slow:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-le")
    with concurrent.futures.ThreadPoolExecutor(4) as crew:
        jobs = [crew.submit(text, i) for i in range(4)]
        for body, expected in [
            (b"{", 400), (b"", 400), (b"nonsense", 400), (b"[" * 100_000, 400), (b'{"messages": "\xff"}', 400), (b"[1]", 400),
            (b'{"temperature": NaN}', 400), (b" " * 100_000_000, 413), (chat_of(stop=["x"] * 10_000), 400), (chat_of(n=1000), 400),
            (chat_of(max_tokens=-1), 400), (chat_of(temperature="hot"), 400), (chat_of(model="none"), 404),
            (chat_of(messages=[{"role": "user", "content": "x " * 3_000_000}]), 400),
        ]:
            assert status(body) == expected, (body[:50], expected)
        assert status(b"{}", {**head, "Content-Type": "text/plain"}) == 415
        assert status(b"{}", head, "/v1/../../etc/passwd") == 404
        for bomb in (b"x-bomb: 1\r\n" * 20_000, b"x-bomb: " + b"1" * 1_000_000):
            with socket.create_connection(address, timeout=60) as connection:
                try:
                    connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + bomb + b"\r\n\r\n")
                    answer = connection.recv(100)
                except OSError:
                    answer = b""  # it had heard enough
            assert not answer or b" 431 " in answer, answer
        assert [job.result() for job in jobs] == alone
    for connection in slow:
        connection.close()


@check
def gone(client, model):
    for _ in range(5):
        stream = client.chat.completions.create(model=model, messages=HELLO, max_tokens=400, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    chat(client, model)
    load = client.get("/loads", cast_to=object)["loads"][0]
    assert load["num_running_reqs"] == 0 and load["num_waiting_reqs"] == 0, load


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sol")
    parser.add_argument("-m", "--model", default="smollm2")
    parser.add_argument("--url")
    parser.add_argument("--keep-going", action="store_true", help="show the traces of failed checks only briefly")
    options = parser.parse_args()
    program, url = None, options.url
    if options.sol:
        command = [options.sol, "serve", "-m", options.model, "--port", "0", "--json", "-q"]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "SOL_API_KEY": KEY}, text=True)
        url = json.loads(program.stdout.readline())["url"]
    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120)
    model = client.models.list().data[0].id
    failed = 0
    for function in CHECKS:
        try:
            function(client, model)
            print(f"ok      {function.__name__}")
        except Exception as error:
            failed += 1
            print(f"FAILED  {function.__name__}: {type(error).__name__}: {str(error)[:300]}")
            if not options.keep_going:
                traceback.print_exc()
    if program:
        program.send_signal(signal.SIGTERM)
        code = program.wait(60)
        failed += code != 0
        print(f"{'ok' if code == 0 else 'FAILED':7} exit code {code} after SIGTERM")
    sys.exit(failed)


if __name__ == "__main__":
    main()
