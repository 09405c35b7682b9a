//! How answers end, and what is refused before they begin.

mod common;

use common::{MODELS, endless, expected, generate, greedy, open, open_with, path};
use sol_engine::{Error, Finish, Generation, Interrupt, LanguageModel, Options, Sampling, Sequence};

fn with_context(model: &str, context: usize) -> LanguageModel {
    open_with(model, Options { context: Some(context), ..Options::default() })
}

fn refusal(model: &mut LanguageModel, prompt: &[u32], options: &Generation) -> String {
    model.generate(prompt, options, &mut |text| panic!("shown: {text}")).unwrap_err().to_string()
}

#[test]
fn the_context_is_filled_to_the_last_token() {
    let prompt = expected("chat-tiny").cases[0].prompt_ids.clone();
    let truth = generate(&mut open("chat-tiny"), &prompt, &endless(32)).ids;
    let context = prompt.len() + 8;
    let mut model = with_context("chat-tiny", context);
    // The last token made takes no room.
    for n in [7, 8, 9] {
        let answer = generate(&mut model, &prompt, &endless(n));
        assert_eq!((&answer.ids[..], answer.finish), (&truth[..n], Finish::MaxTokens));
    }
    let message = refusal(&mut model, &prompt, &endless(10));
    for part in [&context.to_string(), &(prompt.len() + 10).to_string(), "--shift", "--ctx"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // Without a wish the answer ends where the context does.
    let answer = generate(&mut model, &prompt, &Generation { max_tokens: None, ..endless(1) });
    assert_eq!((&answer.ids[..], answer.finish), (&truth[..9], Finish::ContextFull));

    let mut exact = with_context("chat-tiny", prompt.len());
    let answer = generate(&mut exact, &prompt, &Generation { max_tokens: None, ..endless(1) });
    assert_eq!((&answer.ids[..], answer.finish), (&truth[..1], Finish::ContextFull));
    let mut short = with_context("chat-tiny", prompt.len() - 1);
    refusal(&mut short, &prompt, &Generation { max_tokens: None, ..endless(1) });
    assert_eq!(generate(&mut short, &prompt[..3], &endless(2)).ids.len(), 2, "a refusal leaves the model as it was");
}

/// What `--shift` promises, done naively: a window over the tokens, read from nothing for each token.
fn shifted_naively(model: &mut LanguageModel, prompt: &[u32], n: usize) -> Vec<u32> {
    let context = model.context();
    let make_room = |window: &mut Vec<u32>| {
        if window.len() == context {
            let first = usize::from(context > 1);
            window.drain(first..context - (context - first) / 2);
        }
    };
    let mut window = Vec::new();
    for token in prompt {
        make_room(&mut window);
        window.push(*token);
    }
    let mut made = Vec::new();
    loop {
        let mut sequence = Sequence::default();
        let logits = model.engine().extend(&mut sequence, &window, &|| false).unwrap();
        let best = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
        model.engine().release(sequence);
        made.push(best);
        if made.len() == n {
            return made;
        }
        make_room(&mut window);
        window.push(best);
    }
}

#[test]
fn a_shifted_context_goes_on_for_ever() {
    let prompt = expected("solar-tiny").cases[0].prompt_ids.clone();
    for context in [1, 2, 3, 4, 5, 8, 31, 32, 33, 50] {
        let mut model = with_context("solar-tiny", context);
        let options = Generation { shift: true, ..endless(90) };
        for prompt in [&prompt[..], &prompt[..1], &prompt[..context.min(prompt.len())]] {
            let answer = generate(&mut model, prompt, &options);
            let again = generate(&mut model, prompt, &options);
            assert_eq!((answer.ids.len(), answer.finish), (90, Finish::MaxTokens), "context {context}");
            assert_eq!(again.ids, answer.ids, "context {context}: again, from what is cached");
            assert!(answer.prompt_tokens <= context);
            let naive = shifted_naively(&mut model, prompt, 90);
            assert_eq!(answer.ids, naive, "context {context}, prompt of {}", prompt.len());
        }
    }
}

#[test]
fn nothing_and_too_much_are_refused() {
    let mut model = open("chat-tiny");
    assert!(matches!(model.generate(&[], &greedy(), &mut |_| {}), Err(Error::EmptyPrompt)));
    let message = refusal(&mut model, &[1, 389], &greedy());
    assert!(message.contains("389") && message.contains("388"), "{message}");
    refusal(&mut model, &[1, u32::MAX], &greedy());
    refusal(&mut model, &vec![1; 513], &greedy());
    refusal(&mut model, &[1], &Generation { max_tokens: Some(0), ..greedy() });
    refusal(&mut model, &[1], &Generation { max_tokens: Some(usize::MAX), ..greedy() });
    let sampling = Sampling { logit_bias: vec![(389, 1.0)], ..Sampling::default() };
    refusal(&mut model, &[1], &Generation { sampling, ..greedy() });
    // One token is a prompt.
    assert_eq!(generate(&mut model, &[1], &endless(3)).ids.len(), 3);
    assert_eq!(generate(&mut model, &[388], &Generation { max_tokens: None, ..endless(1) }).ids.len(), 512);

    for (context, words) in [(0, "at least 1"), (513, "512")] {
        let options = Options { context: Some(context), ..Options::default() };
        let error = LanguageModel::open(&path("chat-tiny"), options).err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_forced_end_of_turn_ends_it() {
    for name in MODELS {
        let mut model = open(name);
        let prompt = expected(name).cases[0].prompt_ids.clone();
        let eos = expected(name).stop_ids[0];
        let sampling = Sampling { logit_bias: vec![(eos, 1e9)], ..Sampling::default() };
        let answer = generate(&mut model, &prompt, &Generation { sampling: sampling.clone(), ..greedy() });
        assert_eq!((answer.ids.len(), answer.text.as_str(), answer.finish), (0, "", Finish::EndOfTurn), "{name}");
        let answer = generate(&mut model, &prompt, &Generation { sampling, ..endless(5) });
        assert_eq!((answer.ids, answer.text.as_str()), (vec![eos; 5], ""), "{name}: ends of turn are not text");
        // And one that is forbidden does not come.
        let forbidden = |id: &u32| (*id, f32::NEG_INFINITY);
        let sampling = Sampling { logit_bias: expected(name).stop_ids.iter().map(forbidden).collect(), ..Sampling::default() };
        let case = expected(name).cases.into_iter().find(|c| c.stops).unwrap();
        let answer = generate(&mut model, &case.prompt_ids, &Generation { sampling, ..greedy() });
        assert_eq!(answer.ids[..case.answer_tokens], case.greedy_ids[..case.answer_tokens], "{name}");
        assert!(answer.ids.len() > case.answer_tokens, "{name}");
    }
}

/// Every part of an answer as the stop string: most lie across the borders of tokens, and some begin inside a character's bytes.
#[test]
fn stop_strings_cut_the_text_wherever_they_are() {
    for name in ["chat-tiny", "solar-tiny.gguf"] {
        let (mut model, expected) = (open(name), expected(name));
        let case = &expected.cases[0];
        let characters: Vec<usize> = case.answer.char_indices().map(|(i, _)| i).chain([case.answer.len()]).collect();
        for length in [1, 2, 5, 9] {
            for ends in characters.windows(length + 1).step_by(3) {
                let stop = case.answer[ends[0]..ends[length]].to_owned();
                let at = case.answer.find(&stop).unwrap();
                let options = Generation { stop: vec!["never".into(), stop.clone()], ..greedy() };
                let answer = generate(&mut model, &case.prompt_ids, &options);
                assert_eq!((answer.text.as_str(), answer.finish), (&case.answer[..at], Finish::StopString), "{name}: {stop:?}");
                assert!(case.greedy_ids.starts_with(&answer.ids));
            }
        }
        let options = Generation { stop: vec!["never".into(), String::new()], ..greedy() };
        assert_eq!(generate(&mut model, &case.prompt_ids, &options).text, case.answer);
    }
}

#[test]
fn an_interrupt_stops_before_and_while_answering() {
    let mut model = open("chat-tiny");
    let prompt = expected("chat-tiny").cases[0].prompt_ids.clone();
    let truth = generate(&mut model, &prompt, &endless(20));
    let interrupt = Interrupt::default();
    let options = Generation { interrupt: interrupt.clone(), ..endless(20) };

    interrupt.set();
    let answer = model.generate(&prompt, &options, &mut |_| panic!("interrupted")).unwrap();
    assert_eq!((answer.ids.len(), answer.finish), (0, Finish::Interrupted));
    assert!(interrupt.take() && !interrupt.is_set());

    let mut shown = String::new();
    let answer = model.generate(&prompt, &options, &mut |text| {
        shown.push_str(text);
        if shown.len() > 8 {
            interrupt.set();
        }
    });
    let answer = answer.unwrap();
    assert_eq!(answer.finish, Finish::Interrupted);
    assert!(truth.text.starts_with(&shown) && shown.len() < truth.text.len() && answer.text == shown, "{shown:?}");
    interrupt.take();
    assert_eq!(generate(&mut model, &prompt, &options).ids, truth.ids);
}

#[test]
fn an_interrupted_prompt_stays_as_far_as_it_was_read() {
    let mut model = open("solar-tiny");
    let tokens: Vec<u32> = (0..300).map(|i| i % 380).collect();
    let engine = model.engine();
    let mut whole = Sequence::default();
    let truth = engine.extend(&mut whole, &tokens, &|| false).unwrap().to_vec();
    engine.release(whole);

    // Before every layer it is asked whether to stop: in the middle of the third pass of 64, as many as are scored at once.
    let layers = engine.model().spec().layers.len();
    let (mut sequence, asked) = (Sequence::default(), std::cell::Cell::new(0));
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 2 * layers + layers / 2
    };
    assert!(matches!(engine.score(&mut sequence, &tokens, 0, &stop, |_, _| {}), Err(Error::Interrupted)));
    assert_eq!(sequence.tokens(), &tokens[..128]);
    let rest = engine.extend(&mut sequence, &tokens[128..], &|| false).unwrap();
    assert!(rest == truth);
}

#[test]
fn the_engine_refuses_before_it_computes() {
    let mut model = with_context("chat-tiny", 40);
    let engine = model.engine();
    let mut sequence = Sequence::default();
    engine.extend(&mut sequence, &[1, 2, 3], &|| false).unwrap();
    assert!(matches!(engine.extend(&mut sequence, &[], &|| false), Err(Error::EmptyPrompt)));
    assert!(matches!(engine.extend(&mut sequence, &[4, 389], &|| false), Err(Error::UnknownToken { id: 389, vocab: 389 })));
    assert!(matches!(engine.extend(&mut sequence, &[4; 38], &|| false), Err(Error::ContextOverflow { needed: 41, .. })));
    let score = engine.score(&mut sequence, &[4; 38], 0, &|| false, |_, _| panic!("computed"));
    assert!(matches!(score, Err(Error::ContextOverflow { .. })));
    assert_eq!(sequence.tokens(), [1, 2, 3]);
    // There are blocks for one sequence.
    engine.extend(&mut sequence, &[4; 37], &|| false).unwrap();
    let second = engine.extend(&mut Sequence::default(), &[1], &|| false).map(|_| ());
    assert!(matches!(second, Err(Error::CacheFull { .. })), "{second:?}");
}
