//! Several sequences decoded together: the bits of each are those it has alone.

mod common;

use common::{MODELS, open_with};
use sol_engine::{Engine, Error, LanguageModel, Options, Sequence};

fn open_for(name: &str, sequences: usize, context: usize) -> LanguageModel {
    open_with(name, Options { sequences: Some(sequences), context: Some(context), ..Options::default() })
}

/// What sequence `i` holds before its steps: pieces of a block, whole ones, nothing.
fn prefix(i: usize) -> Vec<u32> {
    (0..[5, 32, 0, 47, 31][i % 5] as u32).map(|t| (t * 7 + 3 * i as u32) % 61).collect()
}

/// Token of sequence `i` at its step `n`.
fn token(i: usize, n: usize) -> u32 {
    ((13 * i + 29 * n + 1) % 61) as u32
}

fn start<B: sol_compute::Backend>(engine: &mut Engine<B>, i: usize) -> Sequence {
    let mut sequence = Sequence::default();
    if !prefix(i).is_empty() {
        engine.extend(&mut sequence, &prefix(i), &|| false).unwrap();
    }
    sequence
}

#[test]
fn logits_are_those_of_the_sequence_alone() {
    const STEPS: usize = 35;
    for name in MODELS.into_iter().chain(["models/phimoe", "models/gemma2"]) {
        let (mut alone, mut together) = (open_for(name, 1, 128), open_for(name, 7, 128));
        let (alone, together) = (alone.engine(), together.engine());
        assert_eq!((alone.sequences(), together.sequences()), (1, 7));
        let expected: Vec<Vec<Vec<f32>>> = (0..7)
            .map(|i| {
                let mut sequence = start(alone, i);
                let steps =
                    (0..STEPS).map(|n| alone.extend(&mut sequence, &[token(i, n)], &|| false).unwrap().to_vec()).collect();
                alone.release(sequence);
                steps
            })
            .collect();
        let expected = |i: usize, n: usize| &expected[i][n];
        let mut sequences: Vec<Sequence> = (0..7).map(|i| start(together, i)).collect();
        for n in 0..STEPS {
            // Some sit a step out now and then; they catch up below.
            let mut steps: Vec<_> = sequences.iter_mut().enumerate().map(|(i, s)| (s, token(i, n))).collect();
            let late = if n % 4 == 1 { steps.pop() } else { None };
            let mut seen = Vec::new();
            together
                .step(&mut steps, |i, logits| {
                    assert!(expected(i, n) == logits, "{name}: sequence {i}, step {n}");
                    seen.push(i);
                })
                .unwrap();
            assert_eq!(seen, (0..steps.len()).collect::<Vec<_>>());
            if let Some(late) = late {
                together.step(&mut [late], |_, logits| assert!(expected(6, n) == logits, "{name}: late, step {n}")).unwrap();
            }
        }
        for (i, sequence) in sequences.iter().enumerate() {
            assert_eq!(sequence.tokens().len(), prefix(i).len() + STEPS);
        }
        // Scoring, which has a workspace of its own, leaves room for a step of all.
        let mut scored = Sequence::default();
        sequences.drain(1..2).for_each(|s| together.release(s));
        together.score(&mut scored, &[1, 2, 3], 0, &|| false, |_, _| {}).unwrap();
        sequences.push(scored);
        let mut steps: Vec<_> = sequences.iter_mut().map(|s| (s, 1)).collect();
        together.step(&mut steps, |_, _| {}).unwrap();
        sequences.into_iter().for_each(|s| together.release(s));
    }
}

#[test]
fn a_step_is_refused_before_any_of_it_is_computed() {
    let mut model = open_for("chat-tiny", 2, 40);
    let engine = model.engine();
    let lengths = |sequences: &[Sequence]| sequences.iter().map(|s| s.tokens().len()).collect::<Vec<_>>();
    let mut sequences = [Sequence::default(), Sequence::default(), Sequence::default()];
    engine.step(&mut [], |_, _| panic!("nothing to see")).unwrap();

    let step = |engine: &mut Engine<_>, sequences: &mut [Sequence], tokens: &[u32]| {
        let mut steps: Vec<_> = sequences.iter_mut().zip(tokens.iter().copied()).collect();
        engine.step(&mut steps, |_, _| {})
    };
    let error = step(engine, &mut sequences, &[1, 2, 3]).unwrap_err();
    assert!(matches!(error, Error::TooManySequences { asked: 3, most: 2 }), "{error}");
    let error = step(engine, &mut sequences, &[1, 100_000]).unwrap_err();
    assert!(matches!(error, Error::UnknownToken { id: 100_000, .. }), "{error}");
    assert_eq!(lengths(&sequences), [0, 0, 0]);

    engine.extend(&mut sequences[1], &[5; 40], &|| false).unwrap();
    let error = step(engine, &mut sequences, &[1, 2]).unwrap_err();
    assert!(matches!(error, Error::ContextOverflow { needed: 41, context: 40, .. }), "{error}");
    assert_eq!(lengths(&sequences), [0, 40, 0]);

    // Four blocks: two hold the 40 tokens; the others are one sequence's.
    engine.extend(&mut sequences[2], &[5; 40], &|| false).unwrap();
    let error = step(engine, &mut sequences, &[1]).unwrap_err();
    assert!(matches!(error, Error::CacheFull { blocks: 4, tokens: 128 }), "{error}");
    assert_eq!(lengths(&sequences), [0, 40, 40]);
    engine.truncate(&mut sequences[1], 7);
    step(engine, &mut sequences, &[1, 2]).unwrap();
    assert_eq!(lengths(&sequences), [1, 8, 40]);
}

#[test]
fn senseless_numbers_of_sequences_are_refused() {
    for sequences in [0, 513, usize::MAX] {
        let options = Options { sequences: Some(sequences), threads: Some(1), ..Options::default() };
        let error = LanguageModel::open(&common::path("chat-tiny"), options).err().expect("refused").to_string();
        assert!(error.contains("--parallel") && error.contains("512"), "{error}");
    }
}
