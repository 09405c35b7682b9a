//! Requests that come and go: each gets the tokens it would get alone.

mod common;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use common::open_with;
use sol_engine::{Event, Finish, Interrupt, LanguageModel, Options, Refusal, Request, Sampling, Serving, ServingOptions};

const LONGEST: Duration = Duration::from_secs(60);

fn serve(name: &str, sequences: usize, context: usize, kv_tokens: Option<usize>) -> Serving {
    Serving::start(serving_model(name, sequences, context, kv_tokens), ServingOptions::default()).unwrap()
}

fn serving_model(name: &str, sequences: usize, context: usize, kv_tokens: Option<usize>) -> LanguageModel {
    let probe = open_with(name, Options { context: Some(1), ..Options::default() });
    let token = sol_model::memory::kv_bytes_per_token(probe.spec(), probe.kv_type());
    let kv_memory = kv_tokens.map(|tokens| token * tokens as u64);
    open_with(name, Options { sequences: Some(sequences), context: Some(context), kv_memory, ..Options::default() })
}

fn text(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|t| (t * t * 7 + 13 * seed + t) % 61).collect()
}

fn ask(serving: &Serving, request: Request) -> Receiver<Event> {
    let (send, receive) = channel();
    let sink = Box::new(move |event| {
        let _ = send.send(event);
    });
    serving.submit(request, sink).unwrap();
    receive
}

#[derive(Debug, Default, PartialEq)]
struct Outcome {
    cached: usize,
    /// Log-probabilities of the prompt.
    told: usize,
    ids: Vec<u32>,
    text: String,
    finish: Option<Finish>,
}

fn wait(events: &Receiver<Event>) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        match events.recv_timeout(LONGEST).unwrap() {
            Event::Read { cached, logprobs, .. } => (outcome.cached, outcome.told) = (cached, logprobs.len()),
            Event::Token { id, text, .. } => {
                outcome.ids.push(id);
                outcome.text += &text;
            }
            Event::Done { text, finish } => {
                outcome.text += &text;
                outcome.finish = Some(finish);
                return outcome;
            }
            Event::Failed(error) => panic!("{error}"),
        }
    }
}

/// Prompts that share beginnings, short and long, greedy and sampled.
fn traffic() -> Vec<Request> {
    let header = text(1, 45);
    let request = |i: u32| Request {
        prompt: match i % 4 {
            0 => [&header[..], &text(i, 9)].concat(),
            1 => text(i, 3 + i as usize),
            2 => [&header[..40], &text(i, 60)].concat(),
            _ => header.clone(),
        },
        sampling: Sampling {
            temperature: if i.is_multiple_of(3) { 0.0 } else { 0.8 },
            seed: u64::from(i),
            ..Sampling::default()
        },
        max_tokens: [24, 1, 40, 7][i as usize % 4],
        ignore_eos: i.is_multiple_of(2),
        ..Request::default()
    };
    (0..16).map(request).collect()
}

#[test]
fn neighbours_a_full_cache_and_cached_beginnings_change_nothing() {
    for name in ["chat-tiny", "solar-tiny.gguf"] {
        let expected: Vec<Outcome> =
            traffic().into_iter().map(|request| wait(&ask(&serve(name, 1, 128, None), request))).collect();
        assert!(expected.iter().all(|outcome| outcome.cached == 0 && !outcome.ids.is_empty()));
        // Room for all; and for little more than one, so that requests give way to others and begin again.
        for (sequences, kv_tokens) in [(16, None), (4, None), (8, Some(160))] {
            let serving = serve(name, sequences, 128, kv_tokens);
            for round in 0..2 {
                let events: Vec<_> = traffic().into_iter().map(|request| ask(&serving, request)).collect();
                let found: Vec<Outcome> = events.iter().map(wait).collect();
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let at = format!("{name}, {sequences} sequences, {kv_tokens:?} tokens, round {round}, request {i}");
                    assert_eq!((&found.ids, &found.text, found.finish), (&expected.ids, &expected.text, expected.finish), "{at}");
                }
                if kv_tokens.is_none() {
                    // Those that came together shared what the first of them read; later ones find more.
                    let cached = found.iter().filter(|outcome| outcome.cached > 0).count();
                    assert!(cached >= if round == 0 { 10 } else { 12 }, "{name}: {cached} of 16 found a beginning");
                }
            }
            let figures = serving.figures();
            if kv_tokens.is_some() {
                assert!(figures.preemptions.load(Ordering::Relaxed) > 0, "{name}: there was room for all");
            }
        }
    }
}

/// Room for hardly one: whoever came first goes on, the others wait, give way and begin again, and none hears anything twice.
#[test]
fn a_tiny_cache_delays_everybody_and_changes_nobody() {
    let request = |i: u32| {
        let prompt = if i.is_multiple_of(2) { [text(1, 33), text(i, 20)].concat() } else { text(i, 70) };
        let logprobs = (i % 3 == 2).then_some(0);
        let sampling = Sampling { temperature: (i % 2) as f32, seed: 5, ..Sampling::default() };
        Request { prompt, sampling, max_tokens: 50, ignore_eos: true, prompt_logprobs: logprobs, ..Request::default() }
    };
    for (sequences, blocks) in [(2, 4), (6, 4), (6, 5)] {
        let serving = serve("chat-tiny", sequences, 128, Some(blocks * sol_engine::BLOCK_LEN));
        let alone = serve("chat-tiny", 1, 128, None);
        for _ in 0..2 {
            let events: Vec<_> = (0..9).map(|i| ask(&serving, request(i))).collect();
            for (i, events) in (0..9).zip(&events) {
                let (found, expected) = (wait(events), wait(&ask(&alone, request(i))));
                assert_eq!((found.ids, found.finish, found.told), (expected.ids, expected.finish, expected.told), "request {i}");
            }
        }
        assert!(serving.figures().preemptions.load(Ordering::Relaxed) > 0);
    }
    // An answer that fills the cache ends there.
    let serving = serve("chat-tiny", 2, 128, Some(64));
    let endless = Request { prompt: text(1, 40), max_tokens: 1000, ignore_eos: true, ..Request::default() };
    let outcome = wait(&ask(&serving, endless));
    assert_eq!((outcome.ids.len(), outcome.finish), (25, Some(Finish::ContextFull)));
}

#[test]
fn an_interrupted_request_gives_its_place_and_its_blocks_back() {
    let serving = serve("chat-tiny", 2, 128, None);
    let interrupt = Interrupt::default();
    let endless = |seed: u32, interrupt: &Interrupt| Request {
        prompt: text(seed, 40),
        max_tokens: 1000,
        ignore_eos: true,
        interrupt: interrupt.clone(),
        ..Request::default()
    };
    let gone = ask(&serving, endless(1, &interrupt));
    interrupt.set();
    assert_eq!(wait(&gone).finish, Some(Finish::Interrupted));
    assert_eq!(wait(&ask(&serving, endless(2, &Interrupt::default()))).finish, Some(Finish::ContextFull));
    let settled = || {
        let figures = serving.figures();
        let get = |figure: &std::sync::atomic::AtomicUsize| figure.load(Ordering::Relaxed);
        get(&figures.running) == 0 && get(&figures.blocks_running) == 0 && get(&figures.waiting) == 0
    };
    let start = std::time::Instant::now();
    while !settled() {
        assert!(start.elapsed() < LONGEST);
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_disturbs_nobody() {
    let serving = serve("chat-tiny", 2, 64, None);
    let good = ask(&serving, Request { prompt: text(1, 20), max_tokens: 5, ignore_eos: true, ..Request::default() });
    for prompt in [Vec::new(), text(1, 65), vec![100_000]] {
        let events = ask(&serving, Request { prompt, max_tokens: 5, ..Request::default() });
        assert!(matches!(events.recv_timeout(LONGEST).unwrap(), Event::Failed(_)));
    }
    assert_eq!(wait(&good).ids.len(), 5);
    let none = wait(&ask(&serving, Request { prompt: text(1, 20), ..Request::default() }));
    assert_eq!((none.ids.len(), none.finish), (0, Some(Finish::MaxTokens)));
}

#[test]
fn a_full_queue_refuses() {
    let model = open_with("chat-tiny", Options { sequences: Some(1), context: Some(128), ..Options::default() });
    let serving = Serving::start(model, ServingOptions { queue: 2 }).unwrap();
    assert!(!serving.ended());
    let request = || Request { prompt: text(1, 20), max_tokens: 100, ignore_eos: true, ..Request::default() };
    let mut events = Vec::new();
    let refused = (0..50).any(|_| {
        let (send, receive) = channel();
        let taken = serving.submit(request(), Box::new(move |event| drop(send.send(event))));
        events.push(receive);
        taken == Err(Refusal::Busy)
    });
    assert!(refused);
    events.pop();
    // Two that wait, and the one that runs.
    assert!(events.len() >= 3, "{}", events.len());
    // Those that were taken are answered, also when nobody can ask any more.
    drop(serving);
    assert!(events.iter().all(|events| wait(events).ids.len() == 100));
}

#[test]
fn an_engine_that_ended_says_so() {
    let serving = serve("chat-tiny", 1, 128, None);
    let events = ask(&serving, Request { prompt: text(1, 20), max_tokens: 100, ..Request::default() });
    let request = Request { prompt: text(2, 20), max_tokens: 5, ..Request::default() };
    serving.submit(request.clone(), Box::new(|_| panic!("on purpose"))).unwrap();
    // Whoever is cut off hears nothing more.
    while events.recv_timeout(LONGEST).is_ok_and(|event| !matches!(event, Event::Done { .. })) {}
    let start = std::time::Instant::now();
    while !serving.ended() {
        assert!(start.elapsed() < LONGEST);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(serving.submit(request, Box::new(|_| ())), Err(Refusal::Closed));
}

#[test]
fn logprobs_of_prompt_and_answer_are_those_of_scoring() {
    use sol_engine::{Score, Scorer, Scoring};
    let prompt = text(3, 30);
    let mut model = open_with("chat-tiny", Options { context: Some(64), ..Options::default() });
    let serving = serve("chat-tiny", 2, 64, None);
    // Its beginning is cached, and computed anew all the same.
    wait(&ask(&serving, Request { prompt: prompt.clone(), max_tokens: 1, ..Request::default() }));
    let request = Request {
        prompt: prompt.clone(),
        max_tokens: 3,
        ignore_eos: true,
        logprobs: Some(2),
        prompt_logprobs: Some(1),
        ..Request::default()
    };
    let events = ask(&serving, request);
    let (mut sums, mut ids) = (HashMap::new(), Vec::new());
    loop {
        match events.recv_timeout(LONGEST).unwrap() {
            Event::Read { logprobs, .. } => {
                assert_eq!(logprobs.iter().map(|token| token.id).collect::<Vec<_>>(), prompt);
                assert!(logprobs[0].logprob.is_none() && logprobs[1].top.len() == 1);
                sums.insert("prompt", logprobs.iter().filter_map(|token| token.logprob).map(f64::from).sum::<f64>());
            }
            Event::Token { id, logprob, .. } => {
                let logprob = logprob.unwrap();
                // Greedy: the token is the likeliest.
                assert_eq!((logprob.top[0].0, logprob.top[0].1), (id, logprob.logprob.unwrap()));
                *sums.entry("answer").or_default() += f64::from(logprob.logprob.unwrap());
                ids.push(id);
            }
            Event::Done { .. } => break,
            Event::Failed(error) => panic!("{error}"),
        }
    }
    let whole = [&prompt[..], &ids].concat();
    let requests =
        [Scoring { tokens: prompt.clone(), continuation: prompt.len() - 1 }, Scoring { tokens: whole, continuation: ids.len() }];
    let mut scores = [Score { log_likelihood: 0.0, greedy: false }; 2];
    Scorer::default().score(model.engine(), &requests, &|| false, &mut |i, score| scores[i] = score).unwrap();
    for (name, score) in ["prompt", "answer"].iter().zip(scores) {
        assert!((sums[name] - score.log_likelihood).abs() < 1e-4, "{name}: {} and {}", sums[name], score.log_likelihood);
    }
}

/// Means of hidden states against float32 PyTorch (`xtools/make_embedding_fixtures.py`), in every mix: alone, together, beside
/// answers, with their beginnings cached, and with so little room that they begin again.
#[test]
fn embeddings_are_those_of_pytorch_whoever_else_asks() {
    #[derive(serde::Deserialize)]
    struct Case {
        model: String,
        tokens: Vec<u32>,
        mean: Vec<f32>,
    }
    fn hidden(events: &Receiver<Event>) -> Vec<f32> {
        let first = events.recv_timeout(LONGEST).unwrap();
        let Event::Read { hidden, cached: 0, .. } = first else { panic!("{first:?}") };
        let last = events.recv_timeout(LONGEST).unwrap();
        assert!(matches!(last, Event::Done { finish: Finish::MaxTokens, .. }), "{last:?}");
        hidden
    }
    let cases: Vec<Case> = serde_json::from_str(include_str!("data/embeddings.json")).unwrap();
    let request = |case: &Case| Request { prompt: case.tokens.clone(), embed: true, ..Request::default() };
    for name in ["chat-tiny", "solar-tiny"] {
        let cases: Vec<&Case> = cases.iter().filter(|case| case.model == name).collect();
        let alone = serve(name, 1, 512, None);
        let expected: Vec<Vec<f32>> = cases.iter().map(|case| hidden(&ask(&alone, request(case)))).collect();
        for (case, found) in cases.iter().zip(&expected) {
            assert_eq!(found.len(), case.mean.len());
            let off = found.iter().zip(&case.mean).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-4, "{name}, {} tokens: off by {off}", case.tokens.len());
        }
        // 13 blocks hold the longest prompt.
        for kv_tokens in [None, Some(16 * 32)] {
            let many = serve(name, 6, 512, kv_tokens);
            for _ in 0..2 {
                let answers: Vec<_> = traffic().into_iter().take(4).map(|request| ask(&many, request)).collect();
                let asked: Vec<_> = cases.iter().map(|case| ask(&many, request(case))).collect();
                let found: Vec<Vec<f32>> = asked.iter().map(hidden).collect();
                assert!(found == expected, "{name}: neighbours change an embedding");
                answers.iter().for_each(|answer| assert!(wait(answer).finish.is_some()));
            }
        }
    }
}
