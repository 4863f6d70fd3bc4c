/**
 * The local SLM behind a Mastra agent. Messages are those of the workbook's evaluation, and the answer is the raw text: no
 * routing, no fallback, no parsing.
 */
import { Agent } from "@mastra/core/agent";
import prompts from "./prompts.json" with { type: "json" };

export type Track = keyof typeof prompts;
export type Message = { role: "system" | "user"; content: string };

export interface SlmOptions {
  /** The server's address, ending in /v1. Default: the environment's SLM_BASE_URL. */
  baseUrl?: string;
  /** The model's name there. Default: `slm`. */
  model?: string;
  /** The server's key. Default: the environment's SLM_API_KEY; servers on loopback need none. */
  apiKey?: string;
  /** The limit of an answer, in tokens. Default: 256, as in the evaluation. */
  maxNewTokens?: number;
}

/** The messages of one row, as the evaluation asks them. Throws RangeError for a track that does not exist. */
export function buildMessages(track: Track, prompt: string): Message[] {
  return [
    { role: "system", content: systemPrompt(track) },
    { role: "user", content: prompt },
  ];
}

/** A Mastra agent that answers with the SLM: `await agent.generate(prompt)`, `await agent.stream(prompt)`. */
export function createSlmAgent({ track, ...options }: { track: Track } & SlmOptions): Agent {
  const url = options.baseUrl ?? process.env.SLM_BASE_URL;
  if (!url) {
    throw new Error("no address of the SLM: pass baseUrl, or set SLM_BASE_URL, for example http://127.0.0.1:8000/v1");
  }
  return new Agent({
    id: `slm-${track}`,
    name: `slm-${track}`,
    instructions: systemPrompt(track),
    model: {
      id: `local/${options.model ?? "slm"}`,
      url,
      apiKey: options.apiKey ?? process.env.SLM_API_KEY ?? "local",
    },
    defaultOptions: { modelSettings: { temperature: 0, maxOutputTokens: options.maxNewTokens ?? 256 } },
  });
}

/** Ask the SLM once; resolves to the raw text of its answer. */
export async function completeWithSlm(track: Track, prompt: string, options: SlmOptions = {}): Promise<string> {
  const answer = await createSlmAgent({ track, ...options }).generate(prompt);
  return answer.text;
}

function systemPrompt(track: Track): string {
  if (!Object.hasOwn(prompts, track)) {
    throw new RangeError(`unknown track "${track}": expected one of ${Object.keys(prompts).join(", ")}`);
  }
  return prompts[track].system;
}
