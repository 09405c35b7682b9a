//! Guesses change no answer, whoever guesses and whoever else asks.

mod common;

use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{endless, generate, open, open_with};
use sol_engine::{Event, Generation, Guesses, LanguageModel, Options, Request, Sampling, Serving, ServingOptions, Speculation};

/// Repeats itself, so that much can be guessed.
fn text(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|t| 3 + (t % 9) * (seed % 5 + 1)).collect()
}

fn lookup() -> Guesses {
    Guesses::Lookup
}

fn draft(name: &str) -> Guesses {
    Guesses::Model(Box::new(open_with(name, Options { sequences: Some(16), ..Options::default() })))
}

fn sampled(temperature: f32, seed: u64) -> Sampling {
    Sampling { temperature, seed, top_p: 0.95, frequency_penalty: 0.1, ..Sampling::default() }
}

#[test]
fn an_answer_is_the_same_whoever_guesses() {
    let plain = open("chat-tiny");
    let context = plain.context();
    for (what, guesses) in [("lookup", lookup()), ("itself", draft("chat-tiny")), ("another", draft("chat-tiny.gguf"))] {
        let mut plain = open("chat-tiny");
        let mut guessing = open("chat-tiny");
        guessing.speculate(Speculation { guesses, tokens: 5 }).unwrap();
        let (mut guessed, mut accepted) = (0, 0);
        for (i, max_tokens) in [1, 2, 7, 40, 1000].into_iter().enumerate() {
            for (temperature, shift) in [(0.0, false), (0.7, false), (0.0, true)] {
                // The long ones meet the end of the context.
                let max_tokens = if shift { max_tokens.min(context + 40) } else { max_tokens };
                let prompt = text(i as u32, if shift { context - 20 } else { 30 });
                let options = Generation {
                    sampling: sampled(temperature, i as u64),
                    shift,
                    max_tokens: if max_tokens == 1000 { None } else { Some(max_tokens) },
                    ..endless(max_tokens)
                };
                let (found, expected) = (generate(&mut guessing, &prompt, &options), generate(&mut plain, &prompt, &options));
                let at = format!("{what}: {max_tokens} tokens, temperature {temperature}, shift {shift}");
                assert_eq!((found.ids, found.text, found.finish), (expected.ids, expected.text, expected.finish), "{at}");
                assert_eq!((found.cached_tokens, expected.guessed), (expected.cached_tokens, [0, 0]), "{at}");
                guessed += found.guessed[0];
                accepted += found.guessed[1];
            }
        }
        assert!(accepted > 0 && accepted <= guessed, "{what}: {accepted} of {guessed}");
        if what == "itself" {
            assert!(accepted * 2 > guessed, "a model foretells itself: {accepted} of {guessed}");
        }
    }
}

fn model(guesses: Option<Guesses>, sequences: usize, kv_tokens: usize) -> LanguageModel {
    let probe = open_with("chat-tiny", Options { context: Some(1), ..Options::default() });
    let token = sol_model::memory::kv_bytes_per_token(probe.spec(), probe.kv_type());
    let options = Options {
        sequences: Some(sequences),
        context: Some(128),
        kv_memory: Some(token * kv_tokens as u64),
        ..Options::default()
    };
    let mut model = open_with("chat-tiny", options);
    if let Some(guesses) = guesses {
        model.speculate(Speculation { guesses, tokens: 8 }).unwrap();
    }
    model
}

fn answers(serving: &Serving) -> Vec<Vec<u32>> {
    let request = |i: u32| Request {
        prompt: text(i, 20 + 3 * i as usize),
        sampling: sampled(if i.is_multiple_of(2) { 0.0 } else { 0.8 }, u64::from(i)),
        max_tokens: [1, 90, 33, 2][i as usize % 4],
        stop: if i == 5 { vec!["a".into()] } else { Vec::new() },
        ignore_eos: !i.is_multiple_of(3),
        ..Request::default()
    };
    let ask = |i: u32| {
        let (send, receive) = channel();
        serving.submit(request(i), Box::new(move |event| drop(send.send(event)))).unwrap();
        receive
    };
    let asked: Vec<_> = (0..12).map(ask).collect();
    let ids = |events: &std::sync::mpsc::Receiver<Event>| {
        let mut ids = Vec::new();
        loop {
            match events.recv_timeout(Duration::from_secs(60)).unwrap() {
                Event::Token { id, .. } => ids.push(id),
                Event::Done { .. } => return ids,
                Event::Read { .. } => {}
                Event::Failed(error) => panic!("{error}"),
            }
        }
    };
    asked.iter().map(ids).collect()
}

#[test]
fn neighbours_get_the_same_answers_whoever_guesses() {
    let serve = |model| Serving::start(model, ServingOptions::default()).unwrap();
    let expected = answers(&serve(model(None, 1, 128)));
    for (sequences, kv_tokens) in [(1, 128), (4, 4 * 128), (8, 160)] {
        for guesses in [lookup(), draft("chat-tiny")] {
            let serving = serve(model(Some(guesses), sequences, kv_tokens));
            for _ in 0..2 {
                assert_eq!(answers(&serving), expected, "{sequences} sequences, {kv_tokens} tokens");
            }
            let figures = serving.figures();
            let [guessed, accepted] = [&figures.guessed_tokens, &figures.accepted_tokens].map(|n| n.load(Ordering::Relaxed));
            assert!(accepted > 0 && accepted <= guessed, "{accepted} of {guessed}");
        }
    }
}

#[test]
fn a_draft_of_another_vocabulary_is_refused() {
    let error = open("chat-tiny").speculate(Speculation { guesses: draft("solar-tiny"), tokens: 4 }).unwrap_err().to_string();
    assert!(error.contains("--draft") && error.contains("vocabulary"), "{error}");
    assert!(open("chat-tiny").speculate(Speculation { guesses: lookup(), tokens: 0 }).is_err());
}

#[test]
fn a_drafts_cache_is_a_part_of_what_the_cache_may_take() {
    let plain = open("chat-tiny");
    let token = plain.kv_room().1 / plain.kv_room().0 as u64;
    let options = Options { sequences: Some(4), kv_memory: Some(token * 256), threads: Some(1), ..Options::default() };
    let path = common::path("chat-tiny");
    for (draft, tokens) in [(None, 256), (Some(path.as_path()), 128)] {
        let model = open_with("chat-tiny", options.clone().for_serving(&path, 1, draft).unwrap());
        assert_eq!(model.kv_room(), (tokens, token * tokens as u64));
        let draft = open_with("chat-tiny", Options::default().for_draft_of(&model, &path).unwrap());
        assert_eq!((draft.kv_room(), draft.context()), (model.kv_room(), model.context()));
    }
}
