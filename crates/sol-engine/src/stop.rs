//! Stop strings, also where they are spread over tokens.

/// Holds back text that may be the beginning of a stop string.
pub(crate) struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new() }
    }

    /// Takes text; gives `text` what is safe to show, and says whether a stop string came.
    pub(crate) fn push(&mut self, text: &str, show: &mut String) -> bool {
        show.clear();
        self.held.push_str(text);
        let found = self.stops.iter().filter(|s| !s.is_empty()).filter_map(|s| self.held.find(s.as_str())).min();
        if let Some(at) = found {
            show.push_str(&self.held[..at]);
            self.held.clear();
            return true;
        }
        let safe = self.held.len() - self.longest_beginning();
        show.push_str(&self.held[..safe]);
        self.held.drain(..safe);
        false
    }

    /// What is still held when the answer has ended.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of `held` that begins a stop string.
    fn longest_beginning(&self) -> usize {
        let longest = |stop: &String| {
            let ends = stop.char_indices().map(|(i, _)| i).skip(1);
            ends.filter(|&n| self.held.ends_with(&stop[..n])).max().unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut stop = StopStrings::new(&stops);
        let (mut out, mut show) = (String::new(), String::new());
        for piece in pieces {
            let found = stop.push(piece, &mut show);
            out += &show;
            if found {
                return (out, true);
            }
        }
        (out + &stop.finish(), false)
    }

    #[test]
    fn a_stop_string_over_three_tokens_is_found_and_not_shown() {
        assert_eq!(run(&["\n\nUser:"], &["Hi", "\n", "\nUs", "er: x"]), ("Hi".into(), true));
    }

    #[test]
    fn a_false_beginning_is_shown_after_all() {
        assert_eq!(run(&["END"], &["E", "N", "Q", "EN"]), ("ENQEN".into(), false));
    }

    #[test]
    fn the_earliest_of_several_wins_and_characters_stay_whole() {
        assert_eq!(run(&["b", "äö"], &["xä", "öb"]), ("x".into(), true));
        assert_eq!(run(&["äö"], &["xä", "ü"]), ("xäü".into(), false));
        assert_eq!(run(&[""], &["abc"]), ("abc".into(), false));
    }
}
