//! Prompts and answers against transformers, and what must not change them: threads, pieces, what was cached before.

mod common;

use common::{MODELS, endless, expected, generate, greedy, open, open_with};
use sol_engine::{Finish, Generation, Message, Options, Sampling, Sequence};
use sol_text::Encode;

#[test]
fn conversations_become_the_ids_of_transformers() {
    for name in MODELS {
        let (model, expected) = (open(name), expected(name));
        for case in &expected.cases {
            assert_eq!(model.chat_prompt(&case.messages).unwrap(), case.prompt_ids, "{name}");
        }
        for text in &expected.texts {
            let plain = Encode { add_bos: false, parse_special: false };
            let ids = model.tokenizer().unwrap().encode(&text.text, plain).unwrap();
            let without_bos = text.ids.strip_prefix(&[1]).unwrap_or(&text.ids);
            if !text.text.contains("<|") {
                assert_eq!(ids, without_bos, "{name}: {:?}", text.text);
            }
        }
    }
}

#[test]
fn greedy_answers_are_those_of_pytorch() {
    for name in MODELS {
        let (mut model, expected) = (open(name), expected(name));
        for case in &expected.cases {
            let long = generate(&mut model, &case.prompt_ids, &endless(32));
            assert_eq!((&long.ids, long.finish), (&case.greedy_ids, Finish::MaxTokens), "{name}");

            let answer = generate(&mut model, &case.prompt_ids, &greedy());
            assert_eq!(answer.text, case.answer, "{name}");
            assert_eq!(answer.ids, case.greedy_ids[..case.answer_tokens], "{name}");
            assert_eq!(answer.finish, if case.stops { Finish::EndOfTurn } else { Finish::MaxTokens }, "{name}");
            assert_eq!(answer.prompt_tokens, case.prompt_ids.len());
        }
    }
}

#[test]
fn ends_of_turn_are_those_of_the_generation_config() {
    for name in MODELS {
        let (model, mut stops) = (open(name), expected(name).stop_ids);
        stops.sort_unstable();
        if name.ends_with(".gguf") {
            // The format lists one; the others go by their names.
            assert!(stops.iter().all(|id| model.end_of_turn().contains(id)), "{name}: {:?}", model.end_of_turn());
        } else {
            assert_eq!(model.end_of_turn(), stops, "{name}");
        }
    }
}

fn warm(seed: u64) -> Generation {
    let sampling = Sampling { temperature: 1.1, top_p: 0.95, repetition_penalty: 1.1, seed, ..Sampling::default() };
    Generation { sampling, ..endless(60) }
}

#[test]
fn a_seed_gives_the_same_text_on_any_number_of_threads() {
    for name in ["chat-tiny", "solar-tiny.gguf"] {
        let prompt = &expected(name).cases[0].prompt_ids;
        let answer = |threads: usize, seed: u64| {
            generate(&mut open_with(name, Options { threads: Some(threads), ..Options::default() }), prompt, &warm(seed))
        };
        let one = answer(1, 7);
        assert_eq!(one.ids.len(), 60);
        for threads in [2, 3] {
            let other = answer(threads, 7);
            assert_eq!((&other.ids, &other.text), (&one.ids, &one.text), "{name}: {threads} threads");
        }
        assert_ne!(answer(1, 8).ids, one.ids);
        assert_eq!(generate(&mut open(name), prompt, &warm(7)).ids, one.ids, "{name}: again");
    }
}

#[test]
fn logits_do_not_depend_on_how_the_prompt_was_cut() {
    for name in ["chat-tiny.gguf", "solar-tiny"] {
        let mut model = open(name);
        let prompt: Vec<u32> = expected(name).cases.iter().flat_map(|c| c.prompt_ids.clone()).collect();
        let engine = model.engine();
        let mut logits = |pieces: &dyn Fn(usize) -> usize| {
            let (mut sequence, mut at) = (Sequence::default(), 0);
            let mut last = Vec::new();
            while at < prompt.len() {
                let end = (at + pieces(at)).min(prompt.len());
                last = engine.extend(&mut sequence, &prompt[at..end], &|| false).unwrap().to_vec();
                at = end;
            }
            assert_eq!(sequence.tokens(), prompt);
            engine.release(sequence);
            last
        };
        let whole = logits(&|_| prompt.len());
        for piece in [1, 3, 31, 32, 33, 64] {
            assert!(whole == logits(&|_| piece), "{name}: pieces of {piece}");
        }
        assert!(whole == logits(&|at| at % 5 + 1), "{name}: uneven pieces");
        // Scoring runs on another workspace, with shorter passes.
        let mut scored = Vec::new();
        let mut sequence = Sequence::default();
        engine.score(&mut sequence, &prompt, prompt.len() - 1, &|| false, |_, logits| scored = logits.to_vec()).unwrap();
        engine.release(sequence);
        assert!(whole == scored, "{name}: scored");
    }
}

#[test]
fn a_longer_conversation_goes_on_from_the_cache_with_the_same_bits() {
    for name in MODELS {
        let mut kept = open(name);
        let mut messages = vec![Message::user("Describe the river.")];
        for (turn, question) in ["And the sun?", "Why?", "Hello!"].into_iter().enumerate() {
            let prompt = kept.chat_prompt(&messages).unwrap();
            let answer = generate(&mut kept, &prompt, &warm(turn as u64));
            let fresh = generate(&mut open(name), &prompt, &warm(turn as u64));
            assert_eq!((&answer.ids, &answer.text), (&fresh.ids, &fresh.text), "{name}: turn {turn}");
            assert_eq!(fresh.cached_tokens, 0);
            // The answer's ids may be other than those of its text, so only the prompt before it is sure to be shared.
            assert!(turn == 0 || answer.cached_tokens >= 20, "{name}: {}", answer.cached_tokens);
            messages.extend([Message::assistant(answer.text.trim()), Message::user(question)]);
        }
        let shorter = kept.chat_prompt(&messages[..1]).unwrap();
        let again = generate(&mut kept, &shorter, &warm(0));
        assert_eq!(again.ids, generate(&mut open(name), &shorter, &warm(0)).ids, "{name}: back to the first question");
        assert_eq!(again.cached_tokens, shorter.len() - 1);
    }
}

#[test]
fn the_same_prompt_again_computes_its_last_token_only() {
    let mut model = open("chat-tiny");
    let prompt = expected("chat-tiny").cases[0].prompt_ids.clone();
    let first = generate(&mut model, &prompt, &greedy());
    let again = generate(&mut model, &prompt, &greedy());
    assert_eq!(first.ids, again.ids);
    assert_eq!((first.cached_tokens, again.cached_tokens), (0, prompt.len() - 1));
    // The engine's own work does not find the conversation in its way.
    let long = vec![5; model.context()];
    let mut sequence = Sequence::default();
    model.engine().extend(&mut sequence, &long, &|| false).unwrap();
    model.engine().release(sequence);
    assert_eq!(generate(&mut model, &prompt, &greedy()).ids, first.ids);
}

#[test]
fn penalties_count_the_prompt_that_was_cached() {
    let mut model = open("chat-tiny");
    let prompt = expected("chat-tiny").cases[1].prompt_ids.clone();
    let options = Generation { sampling: Sampling { repetition_penalty: 1.8, ..Sampling::default() }, ..endless(24) };
    let cold = generate(&mut model, &prompt, &options);
    assert_eq!(generate(&mut model, &prompt, &options).ids, cold.ids);
    assert_ne!(generate(&mut model, &prompt, &endless(24)).ids, cold.ids);
}
