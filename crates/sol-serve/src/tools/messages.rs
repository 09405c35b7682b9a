//! Tools in words, for models whose templates do not know them.

use serde_json::Value;
use sol_engine::Message;

use super::{Dialect, Tools};

/// The conversation with the tools told: in the system message where there may be one, else in front of the first of the user.
pub(super) fn told(tools: &Tools, system: bool, mut messages: Vec<Message>) -> Vec<Message> {
    let words = words(tools);
    let front = |message: &mut Message| {
        let rest = if message.content.is_empty() { String::new() } else { format!("\n\n{}", message.content) };
        message.content = format!("{words}{rest}");
    };
    if system {
        match messages.first_mut() {
            Some(first) if first.role == "system" => {
                let before = if first.content.is_empty() { String::new() } else { format!("{}\n\n", first.content) };
                first.content = format!("{before}{words}");
            }
            _ => messages.insert(0, Message::system(words)),
        }
        return messages;
    }
    match messages.iter_mut().find(|message| message.role == "user") {
        Some(first) => front(first),
        None => messages.insert(0, Message::user(words)),
    }
    messages
}

fn words(tools: &Tools) -> String {
    let call = Dialect::told().call("NAME", "{ARGUMENTS}").replace("\"NAME\"", "NAME");
    let functions: Vec<String> = tools.json().as_array().into_iter().flatten().map(|tool| tool["function"].to_string()).collect();
    let how = match (&tools.must, tools.functions.len()) {
        (None, _) => format!("To call one, answer only with JSON of the form {call}. Where none is of use, answer as usual."),
        (Some(_), 1) => format!("Call it: answer only with JSON of the form {call}."),
        (Some(_), _) => format!("Call one of them: answer only with JSON of the form {call}."),
    };
    format!("You can call these functions:\n{}\n{how}", functions.join("\n"))
}

/// The conversation as a template takes it that knows no tools: calls are what the assistant said, results what the user says.
pub(crate) fn flattened(messages: Vec<Message>) -> Vec<Message> {
    let mut flat: Vec<Message> = Vec::with_capacity(messages.len());
    // Whether the last turn is of results, and takes what the user says next: many templates want turns to alternate.
    let mut results = false;
    for message in messages {
        let was_results = std::mem::take(&mut results);
        let mut turn = match message.role.as_str() {
            "tool" => {
                results = true;
                let name = message.more.get("name").and_then(Value::as_str);
                let of = name.map(|name| format!(" of {name}")).unwrap_or_default();
                Message::user(format!("Result{of}:\n{}", message.content))
            }
            "assistant" => Message::assistant(with_calls(&message)),
            _ => Message::new(message.role, message.content),
        };
        match flat.last_mut() {
            Some(last) if was_results && turn.role == "user" => {
                last.content.push_str("\n\n");
                last.content.push_str(&std::mem::take(&mut turn.content));
            }
            _ => flat.push(turn),
        }
    }
    flat
}

fn with_calls(message: &Message) -> String {
    let mut lines: Vec<String> = Some(message.content.clone()).filter(|text| !text.is_empty()).into_iter().collect();
    for call in message.more.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
        let function = &call["function"];
        lines.push(Dialect::told().call(function["name"].as_str().unwrap_or_default(), &function["arguments"].to_string()));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn turns(messages: &[Message]) -> Vec<(&str, &str)> {
        messages.iter().map(|message| (message.role.as_str(), message.content.as_str())).collect()
    }

    #[test]
    fn calls_and_results_become_turns_that_alternate() {
        let calls = json!([
            {"id": "a", "type": "function", "function": {"name": "add", "arguments": {"x": 1}}},
            {"id": "b", "type": "function", "function": {"name": "now", "arguments": {}}},
        ]);
        let flat = flattened(vec![
            Message::system("Be brief."),
            Message::user("Hi"),
            Message::assistant("Well.").with("tool_calls", calls),
            Message::new("tool", "2").with("name", "add").with("tool_call_id", "a"),
            Message::new("tool", "noon").with("tool_call_id", "b"),
            Message::user("And?"),
            Message::assistant("2"),
        ]);
        let said = "Well.\n{\"name\": \"add\", \"arguments\": {\"x\":1}}\n{\"name\": \"now\", \"arguments\": {}}";
        let heard = "Result of add:\n2\n\nResult:\nnoon\n\nAnd?";
        let expected = [("system", "Be brief."), ("user", "Hi"), ("assistant", said), ("user", heard), ("assistant", "2")];
        assert_eq!(turns(&flat), expected);
        assert!(flat.iter().all(|message| message.more.is_empty()));
    }

    #[test]
    fn tools_are_told_where_the_model_hears_of_them() {
        let tool = json!({"type": "function", "function": {"name": "now", "description": "The time."}});
        let tools = serde_json::from_value(json!([tool])).unwrap();
        let tools = Tools::new(Some(tools), None, None).unwrap().unwrap();
        let [system, user] = [Message::system("Be brief."), Message::user("Hi")];
        for (system_prompt, messages, at) in [
            (true, vec![system.clone(), user.clone()], 0),
            (true, vec![user.clone()], 0),
            (false, vec![user.clone()], 0),
            (false, vec![Message::assistant("?"), user], 1),
        ] {
            let told = told(&tools, system_prompt, messages);
            let content = &told[at].content;
            assert!(
                content.contains("{\"name\":\"now\",\"description\":\"The time.\"") && content.contains("as usual"),
                "{content}"
            );
            assert_eq!(told[at].role, if system_prompt { "system" } else { "user" });
        }
    }
}
