//! The model card's usage example: `cargo run --release --example introduce_yourself -p sol-engine [MODEL]`.

use sol_engine::{Generation, LanguageModel, Message, Options, Result};

fn main() -> Result<()> {
    let model = std::env::args().nth(1).unwrap_or("smollm2".into());
    let mut model = LanguageModel::load(&model, Options::default())?;

    // The chat template with a generation prompt, then up to 512 new tokens, greedily.
    let prompt = model.chat_prompt(&[Message::user("Please, introduce yourself.")])?;
    let answer = model.generate(&prompt, &Generation::default(), &mut |_| {})?;

    println!("{}", model.tokenizer()?.decode(&answer.ids, true));
    Ok(())
}
