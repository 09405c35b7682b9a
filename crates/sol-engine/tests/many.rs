//! Many requests together: results are those of each alone, and what they share is computed once.

mod common;

use common::{MODELS, open_with};
use sol_engine::{Error, Finish, Generation, LanguageModel, Options, Prompt, Sampling, Score, Scorer, Scoring, Sequence};

fn open_for(name: &str, sequences: usize, context: usize) -> LanguageModel {
    open_with(name, Options { sequences: Some(sequences), context: Some(context), ..Options::default() })
}

fn text(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|t| (t * t * 7 + 13 * seed + t) % 61).collect()
}

/// A header, questions after it, and choices of several lengths after each, as a benchmark has them.
fn requests() -> Vec<Scoring> {
    let header = text(1, 45);
    let mut requests = Vec::new();
    for question in 0..5 {
        let context = [&header[..], &text(question + 2, 9 + 7 * question as usize)].concat();
        for choice in 0..4 {
            let continuation = text(40 + choice, if question == 0 { 1 } else { 1 + 3 * choice as usize });
            let tokens = [&context[..], &continuation].concat();
            requests.push(Scoring { tokens, continuation: continuation.len() });
        }
    }
    // The same twice, one that is another's beginning, one without anything in common, one without a continuation.
    requests.push(requests[3].clone());
    requests.push(Scoring { tokens: header[..40].to_vec(), continuation: 39 });
    requests.push(Scoring { tokens: text(99, 64), continuation: 3 });
    requests.push(Scoring { tokens: text(99, 5), continuation: 0 });
    requests
}

fn alone(model: &mut LanguageModel, request: &Scoring) -> Score {
    let mut score = Score { log_likelihood: 0.0, greedy: true };
    let (tokens, n) = (&request.tokens, request.continuation);
    let mut sequence = Sequence::default();
    let first = tokens.len() - 1 - n;
    let engine = model.engine();
    let sum = |logits: &[f32], token: u32| {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
        let best = logits.iter().position(|l| *l == max).unwrap();
        (f64::from(logits[token as usize] - max) - sum.ln(), best == token as usize)
    };
    engine
        .score(&mut sequence, &tokens[..tokens.len() - 1], first, &|| false, |i, logits| {
            let (log, best) = sum(logits, tokens[i + 1]);
            score.log_likelihood += log;
            score.greedy &= best;
        })
        .unwrap();
    engine.release(sequence);
    score
}

#[test]
fn scores_are_those_of_each_request_alone() {
    for name in MODELS.into_iter().chain(["models/phimoe", "models/gemma2"]) {
        let mut one = open_for(name, 1, 128);
        let expected: Vec<Score> = requests().iter().map(|r| alone(&mut one, r)).collect();
        for (sequences, window) in [(1, usize::MAX), (4, 7), (2, 1)] {
            let mut model = open_for(name, sequences, 128);
            let mut scorer = Scorer::default();
            let mut found = vec![None; expected.len()];
            for (w, requests) in requests().chunks(window.min(expected.len())).enumerate() {
                let each = &mut |i: usize, score| {
                    assert!(found[w * window.min(expected.len()) + i].replace(score).is_none(), "{name}: {i} came twice");
                };
                scorer.score(model.engine(), requests, &|| false, each).unwrap();
            }
            let mut found: Vec<Score> = found.into_iter().map(Option::unwrap).collect();
            assert_eq!(found, expected, "{name}: {sequences} sequences, windows of {window}");
            let (computed, naive) = scorer.tokens();
            assert!(window < 7 || computed * 2 < naive, "{name}: {computed} of {naive}");
            scorer.clear(model.engine());
            let mut alone = Scorer::without_sharing();
            alone.score(model.engine(), &requests(), &|| false, &mut |i, score| found[i] = score).unwrap();
            assert_eq!(found, expected, "{name}: without sharing");
            assert_eq!(alone.tokens().0, alone.tokens().1);
            alone.clear(model.engine());
            let (computed, naive) = scorer.tokens();
            assert!(computed * 2 < naive, "{name}: {computed} of {naive}");
            scorer.clear(model.engine());
            // Every block came back: the whole context is there again, for every sequence.
            let mut whole: Vec<Sequence> = (0..sequences).map(|_| Sequence::default()).collect();
            for sequence in &mut whole {
                model.engine().extend(sequence, &text(3, 128), &|| false).unwrap();
            }
        }
    }
}

#[test]
fn scoring_refuses_what_it_can_not_do() {
    let mut model = open_for("chat-tiny", 1, 64);
    let mut scorer = Scorer::default();
    let mut score = |tokens: Vec<u32>, continuation, stop: bool| {
        scorer.score(model.engine(), &[Scoring { tokens, continuation }], &|| stop, &mut |_, _| {})
    };
    assert!(matches!(score(vec![1, 2], 2, false), Err(Error::EmptyPrompt)));
    assert!(matches!(score(vec![1, 1_000_000], 1, false), Err(Error::UnknownToken { .. })));
    assert!(matches!(score(vec![1; 66], 1, false), Err(Error::ContextOverflow { .. })));
    assert!(matches!(score(vec![1; 20], 1, true), Err(Error::Interrupted)));
    // The last token needs no room.
    score(vec![1; 65], 1, false).unwrap();
}

fn prompts() -> Vec<Prompt> {
    let header = text(5, 70);
    (0..9u32)
        .map(|i| {
            let tokens = [&header[..if i == 4 { 0 } else { 70 }], &text(i, 1 + 5 * i as usize)].concat();
            let temperature = if i % 3 == 0 { 0.0 } else { 0.9 };
            let sampling = Sampling { temperature, top_p: 0.95, seed: u64::from(i), ..Sampling::default() };
            let stop = if i == 7 { vec!["e".to_owned()] } else { Vec::new() };
            Prompt { tokens, sampling, max_tokens: [12, 1, 30, 0, 7, 40, 25, 30, 500][i as usize], stop, keep_special: false }
        })
        .collect()
}

#[test]
fn answers_are_those_of_each_prompt_alone() {
    for name in MODELS {
        let mut one = open_for(name, 1, 160);
        if one.tokenizer().is_err() {
            continue;
        }
        for sequences in [1, 3, 16] {
            let mut model = open_for(name, sequences, 160);
            let mut found = vec![None; prompts().len()];
            let tally = model.generate_many(&prompts(), &|| false, &mut |i, reply| found[i] = Some(reply)).unwrap();
            assert!(tally.computed < tally.naive, "{name}: {tally:?}");
            for (prompt, reply) in prompts().into_iter().zip(found) {
                let reply = reply.unwrap();
                if prompt.max_tokens == 0 {
                    assert_eq!((reply.ids.len(), reply.finish), (0, Finish::MaxTokens));
                    continue;
                }
                let fits = prompt.max_tokens.min(160 + 1 - prompt.tokens.len());
                let options =
                    Generation { sampling: prompt.sampling, max_tokens: Some(fits), stop: prompt.stop, ..Generation::default() };
                let answer = one.generate(&prompt.tokens, &options, &mut |_| {}).unwrap();
                assert_eq!((&reply.ids, &reply.text), (&answer.ids, &answer.text), "{name}, {sequences} together");
                if fits == prompt.max_tokens {
                    assert_eq!(reply.finish, answer.finish);
                }
            }
        }
    }
}

#[test]
fn prompts_that_arrive_together_share_a_cold_header() {
    let mut model = open_for("chat-tiny", 8, 160);
    let header = text(5, 96);
    let prompts: Vec<Prompt> =
        (0..8).map(|i| Prompt { tokens: [&header[..], &text(i, 4)].concat(), max_tokens: 1, ..Prompt::default() }).collect();
    let tally = model.generate_many(&prompts, &|| false, &mut |_, _| {}).unwrap();
    assert_eq!((tally.computed, tally.naive, tally.generated), (96 + 8 * 4, 8 * 100, 8));
    let stopped = model.generate_many(&prompts, &|| true, &mut |_, _| panic!("nothing is known yet"));
    assert!(matches!(stopped, Err(Error::Interrupted)));
}

#[test]
fn a_fork_keeps_what_its_parent_forgets() {
    let mut model = open_for("chat-tiny", 2, 128);
    let engine = model.engine();
    let tokens = text(1, 80);
    let mut parent = Sequence::default();
    let expected = engine.extend(&mut parent, &tokens, &|| false).unwrap().to_vec();
    let mut fork = engine.fork(&parent, 80);
    assert_eq!(fork.tokens(), &tokens[..64]);
    // Cut within a block that the fork holds: back to its beginning, so that nothing is written over.
    engine.truncate(&mut parent, 50);
    assert_eq!(parent.tokens().len(), 32);
    engine.extend(&mut parent, &text(9, 60), &|| false).unwrap();
    assert_eq!(engine.extend(&mut fork, &tokens[64..], &|| false).unwrap(), expected);
    engine.release(parent);
    engine.truncate(&mut fork, 50);
    assert_eq!(fork.tokens().len(), 50);
    engine.release(fork);
}
