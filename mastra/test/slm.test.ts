/**
 * The package against a real `swap serve`. `make mastra` in the repository's root starts the server, lets Python answer the
 * same rows in process, and runs this; SLM_TEST_CASES names the file with its answers.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { Agent } from "@mastra/core/agent";
import { createTool } from "@mastra/core/tools";
import OpenAI, { AzureOpenAI } from "openai";
import { z } from "zod";
import { buildMessages, completeWithSlm, createSlmAgent, type Message, type Track } from "../src/index.ts";

interface Case {
  prompt: string;
  messages: Message[];
  output: string;
}
interface Cases {
  root: string;
  model: string;
  maxNewTokens: number;
  /** Behind a router a stream begins when it is decided who answers: with the whole text. */
  isRouted: boolean;
  tracks: Record<Track, Case[]>;
}

const file = process.env.SLM_TEST_CASES;
if (!file) throw new Error("SLM_TEST_CASES is not set: run `make mastra` in the repository's root");
const { root, model, maxNewTokens, isRouted, tracks } = JSON.parse(readFileSync(file, "utf8")) as Cases;
const options = { baseUrl: `${root}/v1`, model, maxNewTokens };

for (const track of ["structured", "toolcall"] as const) {
  describe(track, () => {
    const cases = tracks[track];

    test("there are ten rows", () => assert.equal(cases.length, 10));

    test("messages equal Python's byte for byte", () => {
      for (const { prompt, messages } of cases) {
        assert.deepEqual(buildMessages(track, prompt), messages);
        assert.equal(JSON.stringify(buildMessages(track, prompt)), JSON.stringify(messages));
      }
    });

    test("the agent's text equals the text of the model in process", async () => {
      const agent = createSlmAgent({ track, ...options });
      for (const { prompt, output } of cases) {
        assert.equal((await agent.generate(prompt)).text, output);
      }
    });

    test("a streamed text comes in parts and equals the whole", async () => {
      const [{ prompt, output }] = cases as [Case];
      const answer = await createSlmAgent({ track, ...options }).stream(prompt);
      const parts: string[] = [];
      for await (const part of answer.textStream) parts.push(part);
      assert.equal(parts.join(""), output);
      assert.ok(isRouted || parts.length > 1, `${parts.length} part`);
    });

    test("one call returns the raw text", async () => {
      const [{ prompt, output }] = cases as [Case];
      assert.equal(await completeWithSlm(track, prompt, options), output);
    });
  });
}

describe("what can go wrong", () => {
  test("an unknown track names the known ones", () => {
    assert.throws(() => buildMessages("tools" as Track, "hi"), /unknown track "tools": expected one of structured, toolcall/);
    assert.throws(() => buildMessages("toString" as Track, "hi"), RangeError);
  });

  test("a missing address names the variable", () => {
    assert.throws(() => createSlmAgent({ track: "toolcall" }), /SLM_BASE_URL/);
  });

  test("a server that is not there is an error, not another model's answer", async () => {
    const agent = createSlmAgent({ track: "toolcall", baseUrl: "http://127.0.0.1:9/v1" });
    await assert.rejects(agent.generate("hi", { modelSettings: { maxRetries: 0 } }));
  });
});

describe("Mastra's own tool calling", () => {
  const inputSchema = z.object({ radius: z.number().int().describe("The radius.") });
  const calls: unknown[] = [];
  const area = createTool({
    id: "area",
    description: "Area of a circle.",
    inputSchema,
    execute: async (input) => {
      calls.push(input);
      return { area: 78.5 };
    },
  });
  const agent = new Agent({
    id: "caller",
    name: "caller",
    instructions: "Answer with one call of a tool.",
    model: { id: `local/${model}`, url: options.baseUrl, apiKey: "local" },
    tools: { area },
    defaultOptions: { modelSettings: { temperature: 0, maxOutputTokens: 48 }, maxSteps: 1, toolChoice: "required" },
  });
  const prompt = "What is the area of a circle with radius 5?";

  test("a tool is really called, with arguments that fit its schema", async () => {
    calls.length = 0;
    const answer = await agent.generate(prompt);
    assert.equal(answer.finishReason, "tool-calls");
    assert.equal(calls.length, 1);
    inputSchema.parse(calls[0]);
  });

  test("so it is when the answer is streamed", async () => {
    calls.length = 0;
    const answer = await agent.stream(prompt);
    await answer.consumeStream();
    assert.equal(calls.length, 1);
    inputSchema.parse(calls[0]);
  });

  test("the result goes back to the model, which then speaks", async () => {
    calls.length = 0;
    const answer = await agent.generate(prompt, {
      maxSteps: 2,
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
    });
    assert.equal(calls.length, 1);
    assert.equal(answer.steps.length, 2);
    assert.ok(answer.text);
  });
});

describe("the official client", () => {
  const [row] = tracks.toolcall as [Case];
  const body = { model, messages: row.messages, max_tokens: maxNewTokens, temperature: 0 };
  const clients = {
    plain: new OpenAI({ baseURL: options.baseUrl, apiKey: "local" }),
    azure: new AzureOpenAI({
      baseURL: `${root}/openai/deployments/${model}`,
      apiKey: "local",
      apiVersion: "2024-10-21",
    }),
  };

  for (const [name, client] of Object.entries(clients)) {
    test(`${name}: an answer at once`, async () => {
      const answer = await client.chat.completions.create(body);
      assert.equal(answer.choices[0]?.message.content, row.output);
      assert.ok((answer.usage?.prompt_tokens ?? 0) > 0);
    });

    test(`${name}: streamed, with usage when asked`, async () => {
      const stream = await client.chat.completions.create({
        ...body,
        stream: true,
        stream_options: { include_usage: true },
      });
      let text = "";
      let tokens = 0;
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta.content ?? "";
        tokens = chunk.usage?.completion_tokens ?? tokens;
      }
      assert.equal(text, row.output);
      assert.ok(tokens > 0);
    });
  }
});
