//! What a `Dockerfile` may not ask of the engine that builds it.
//!
//! Engines fetch addresses themselves, from the node's network, and find images of other projects by their ids and names. So a
//! `Dockerfile` is read before it is sent. It is read more strictly than engines do: what two of them could understand differently
//! is refused. Not seen are the triggers (`ONBUILD`) of images that it builds on.

use std::collections::BTreeMap;

/// Something that is not sent to an engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the Dockerfile: {why}")]
pub struct Refused {
    /// The line that the instruction begins in.
    pub line: usize,
    /// What it is, and what to do.
    pub why: String,
}

/// Ways to images that lie on the node, as Podman writes them.
const TRANSPORTS: [&str; 10] = [
    "containers-storage",
    "dir",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "ostree",
    "sif",
    "atomic",
    "tarball",
];

/// Flags of `COPY` and `ADD` that lead nowhere.
const COPY_FLAGS: [&str; 5] = ["chown", "chmod", "link", "parents", "exclude"];

/// Reads a `Dockerfile`, and says what of it is not sent.
///
/// # Errors
/// The first of it.
pub fn check(text: &str) -> Result<(), Refused> {
    let instructions = instructions(text)?;
    let defaults = defaults(&instructions);
    let mut stages = Stages { names: Vec::new(), defaults };
    for instruction in &instructions {
        stages.check(instruction.text.trim()).map_err(|why| Refused { line: instruction.line, why })?;
    }
    Ok(())
}

struct Instruction {
    line: usize,
    text: String,
}

impl Instruction {
    fn is(&self, keyword: &str) -> bool {
        split(&self.text).0.eq_ignore_ascii_case(keyword)
    }
}

/// The first word, and the rest.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_once(char::is_whitespace).map_or((text, ""), |(word, rest)| (word, rest.trim()))
}

/// Lines that belong together, together.
fn instructions(text: &str) -> Result<Vec<Instruction>, Refused> {
    let mut found: Vec<Instruction> = Vec::new();
    let (mut continues, mut is_doubtful) = (false, false);
    for (index, line) in text.trim_start_matches('\u{feff}').split('\n').enumerate() {
        let number = index + 1;
        let refuse = |why: &str| Err(Refused { line: number, why: why.to_owned() });
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.contains(|it: char| it.is_control() && it != '\t') {
            return refuse("it has a control character: remove it");
        }
        let bare = line.trim();
        if let Some(comment) = bare.strip_prefix('#') {
            let key = comment.split_once('=').map(|(key, _)| key.trim().to_lowercase());
            if found.is_empty() && key.is_some_and(|key| key == "escape" || key == "syntax") {
                return refuse("the directives `escape` and `syntax` are not taken: leave them out");
            }
        }
        if bare.is_empty() || bare.starts_with('#') {
            // Whether one of these ends an instruction, not all engines agree.
            is_doubtful |= continues && !line.starts_with('#');
            continue;
        }
        if bare.ends_with("\\\\") {
            return refuse(
                "it ends with two backslashes, which engines understand differently: write it otherwise",
            );
        }
        let begins = ["ADD", "ARG", "COPY", "FROM", "ONBUILD", "RUN"]
            .iter()
            .any(|word| split(bare).0.eq_ignore_ascii_case(word));
        if continues && is_doubtful && begins {
            return refuse(
                "an empty line or a comment lies between it and the line that it continues: remove that",
            );
        }
        let (part, goes_on) = bare.strip_suffix('\\').map_or((bare, false), |part| (part, true));
        match found.last_mut() {
            // Words go on across lines, as engines have it; the indentation of the next line stays.
            Some(last) if continues => {
                let more = if goes_on { line.trim_end().trim_end_matches('\\') } else { line };
                last.text.push_str(more);
            }
            _ => {
                is_doubtful = false;
                found.push(Instruction { line: number, text: part.to_owned() });
            }
        }
        continues = goes_on;
    }
    Ok(found)
}

/// What each `ARG` is without anybody who says otherwise; nothing where that is not plain.
fn defaults(instructions: &[Instruction]) -> BTreeMap<String, Option<String>> {
    let mut found: BTreeMap<String, Option<String>> = BTreeMap::new();
    for instruction in instructions.iter().filter(|it| it.is("ARG") || it.is("ENV")) {
        for word in split(&instruction.text).1.split_whitespace() {
            let Some((name, value)) = word.split_once('=') else { continue };
            let value = ['"', '\'']
                .iter()
                .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
                .unwrap_or(value);
            let is_plain = instruction.is("ARG") && !value.contains(['$', '"', '\'', '\\']);
            let value = is_plain.then(|| value.to_owned());
            let known = found.entry(name.to_owned()).or_insert_with(|| value.clone());
            if *known != value {
                *known = None;
            }
        }
    }
    found
}

struct Stages {
    /// Those that have begun, by name if they have one.
    names: Vec<Option<String>>,
    defaults: BTreeMap<String, Option<String>>,
}

impl Stages {
    fn check(&mut self, text: &str) -> Result<(), String> {
        let (keyword, rest) = split(text);
        match keyword.to_ascii_uppercase().as_str() {
            "FROM" => self.from(rest),
            "ADD" | "COPY" => self.copy(&keyword.to_ascii_uppercase(), rest),
            "RUN" if rest.starts_with("--") => Err(
                "flags of RUN reach into the node and to other images: leave them out, and COPY what it needs".to_owned(),
            ),
            "RUN" => no_document(rest),
            "ONBUILD" if split(rest).0.eq_ignore_ascii_case("FROM") => {
                Err("ONBUILD takes no FROM".to_owned())
            }
            "ONBUILD" => self.check(rest),
            _ => Ok(()),
        }
    }

    fn from(&mut self, rest: &str) -> Result<(), String> {
        let (flags, words) = flags(rest)?;
        if let Some((name, _)) = flags.iter().find(|(name, _)| name != "platform") {
            return Err(format!("FROM takes no --{name}: leave it out"));
        }
        let (image, name) = match words.split_whitespace().collect::<Vec<_>>()[..] {
            [image] => (image, None),
            [image, word, name] if word.eq_ignore_ascii_case("AS") => (image, Some(name.to_lowercase())),
            _ => return Err("it is not `FROM IMAGE` or `FROM IMAGE AS NAME`".to_owned()),
        };
        self.image(image, &self.names)?;
        let is_word = |name: &String| {
            name.starts_with(|it: char| it.is_ascii_alphabetic())
                && name.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_.".contains(&it))
        };
        if !name.as_ref().is_none_or(is_word) {
            return Err("the name of a stage is letters, digits, `-`, `_` and `.`, and begins with a letter"
                .to_owned());
        }
        self.names.push(name);
        Ok(())
    }

    fn copy(&self, keyword: &str, rest: &str) -> Result<(), String> {
        let (flags, words) = flags(rest)?;
        for (name, value) in flags {
            if name == "from" {
                let earlier = &self.names[..self.names.len().saturating_sub(1)];
                let is_number = value.parse::<usize>().is_ok_and(|number| number < earlier.len());
                if !is_number {
                    self.image(value, earlier)?;
                }
            } else if !COPY_FLAGS.contains(&name.as_str()) {
                return Err(format!("{keyword} takes no --{name}: leave it out"));
            }
        }
        no_document(words)?;
        let is_list = words.starts_with('[');
        let paths: Vec<String> = if is_list {
            serde_json::from_str(words).map_err(|_| "what begins with `[` is a list of texts".to_owned())?
        } else {
            words.split_whitespace().map(str::to_owned).collect()
        };
        for path in &paths {
            let path = path.to_lowercase();
            if path.contains("://") || path.contains("git@") || path.starts_with("github.com/") {
                return Err(format!(
                    "{keyword} of an address is fetched from within the node: add the file to the source, or fetch it with RUN"
                ));
            }
            if keyword == "ADD" && path.contains(['$', '"', '\'', '\\']) {
                return Err("ADD takes neither variables nor quotes nor backslashes: use COPY".to_owned());
            }
        }
        Ok(())
    }

    /// Whether an image may be named, after the stages that come before.
    fn image(&self, named: &str, earlier: &[Option<String>]) -> Result<(), String> {
        let image = self.expanded(named)?.to_lowercase();
        if earlier.iter().flatten().any(|name| *name == image) {
            return Ok(());
        }
        let is_plain = image.bytes().all(|it| it.is_ascii_alphanumeric() || b"._/:@-".contains(&it));
        if image.is_empty() || !is_plain {
            return Err(format!("{named:?} is not the plain name of an image: write it out"));
        }
        let before = image.split_once(':').map_or("", |(before, _)| before);
        let is_id = image.len() <= 64 && image.bytes().all(|it| it.is_ascii_hexdigit());
        if is_id || ["sha256", "sha384", "sha512"].contains(&before) {
            return Err(format!(
                "{named} could be the id of somebody else's image: write the image's name, and its tag"
            ));
        }
        if image.contains("://") || TRANSPORTS.contains(&before) {
            return Err(format!("{named} would be read from the node's disk: name an image of a registry"));
        }
        if image.strip_prefix("localhost/").unwrap_or(&image).starts_with("plimsoll/") {
            return Err(format!(
                "{named} is what another source was built to: name the image that it builds on"
            ));
        }
        Ok(())
    }

    /// A name with what the file says of its variables.
    fn expanded(&self, named: &str) -> Result<String, String> {
        let mut parts = named.split('$');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let is_word = |it: char| it.is_ascii_alphanumeric() || it == '_';
            let (name, rest) = match part.strip_prefix('{') {
                Some(braced) => braced.split_once('}').unwrap_or((braced, "")),
                None => part.split_at(part.find(|it| !is_word(it)).unwrap_or(part.len())),
            };
            let value = self.defaults.get(name).cloned().flatten().ok_or_else(|| {
                format!("${name} is no ARG with one plain default in this file: give it one, or write the name out")
            })?;
            text.push_str(&value);
            text.push_str(rest);
        }
        Ok(text)
    }
}

/// Name and value.
type Flag<'a> = (String, &'a str);

/// The flags that an instruction begins with, and the rest.
fn flags(text: &str) -> Result<(Vec<Flag<'_>>, &str), String> {
    let (mut found, mut rest) = (Vec::new(), text.trim());
    while rest.starts_with("--") {
        let (word, after) = split(rest);
        if word.contains(['"', '\'', '\\']) {
            return Err(format!("{word} has quotes or backslashes: write it without"));
        }
        let (name, value) = word[2..].split_once('=').unwrap_or((&word[2..], ""));
        found.push((name.to_lowercase(), value));
        rest = after;
    }
    Ok((found, rest))
}

/// Engines differ in whether what follows `<<` is text or further instructions.
fn no_document(text: &str) -> Result<(), String> {
    let is_document = |word: &str| {
        let word = word.trim_start_matches(|it: char| it.is_ascii_digit());
        word.starts_with("<<") && !word.starts_with("<<<")
    };
    if text.split_whitespace().any(is_document) {
        return Err("here-documents are not taken: put the text into a file of the source".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_nowhere_passes() {
        for text in [
            "FROM localhost/busybox:1\nCOPY index.html /www/\nCMD [\"busybox\"]\n",
            "# A comment, x = 1\nARG V=3.12\nFROM python:${V}-slim AS be\nFROM be\nARG V\nCOPY --from=be /a /b\n",
            "FROM golang:1 AS build\nRUN a \\\n# why\n    b \\\n\n && c\nFROM scratch\ncopy --from=0 --chown=1:1 /a /b\n",
            "FROM docker:27-cli\nADD app.tar /\nADD [\"a b\", \"/\"]\nRUN wget https://example.org/x && echo $((1<<3))\n",
            "FROM r.example:5000/team/app@sha256:aaaa\nCOPY a-$V.jar /app.jar\nFROM --platform=linux/amd64 node:22\n",
            "\u{feff}from busybox\r\nrun true\r\n",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_reaches_the_node_or_others_is_refused() {
        for (line, text) in [
            (2, "FROM x\nADD http://127.0.0.1:7878/ /x"),
            (2, "FROM x\nadd --chown=1 HTTP://127.0.0.1/ /x"),
            (2, "FROM x\nADD \\\n  http://127.0.0.1/ /x"),
            (2, "FROM x\nAD\\\nD http://127.0.0.1/ /x"),
            (2, "FROM x\nADD [\"http://127.0.0.1/\", \"/x\"]"),
            (2, "FROM x\nADD [\"http:\\u002f/127.0.0.1/\", \"/x\"]"),
            (2, "FROM x\nADD git@127.0.0.1:a /x"),
            (3, "FROM x\nARG U=http\nADD $U:/a /x"),
            (2, "FROM x\nADD http:\"/\"/127.0.0.1 /x"),
            (2, "FROM x\nONBUILD ADD http://127.0.0.1/ /x"),
            (4, "FROM x\nRUN true \\\n  # c\nADD http://127.0.0.1/ /x"),
            (2, "FROM x\nRUN true \\\\\nADD http://127.0.0.1/ /x"),
            (1, "# escape=`\nFROM x"),
            (2, "# other\n#Syntax = a/b\nFROM x"),
            (2, "FROM x\nRUN --network=host id"),
            (2, "FROM x\nRUN --security=insecure id"),
            (2, "FROM x\nRUN --mount=type=bind,from=abc,target=/x id"),
            (2, "FROM x\nRUN <<END\nFROM x AS fe\nEND\nFROM fe"),
            (1, "FROM abcdef123456"),
            (1, "FROM 0"),
            (1, "FROM sha256:abcd"),
            (1, "FROM a\\bc"),
            (2, "FROM x AS one\nCOPY --from=fe /a /b"),
            (2, "FROM x AS fe\nCOPY --from=fe /a /b"),
            (2, "FROM x\nCOPY --from=1 /a /b"),
            (1, "FROM fe\nFROM x AS fe"),
            (1, "FROM $WHO"),
            (1, "FROM ${WHO:-abc}"),
            (2, "ARG WHO=abc\nFROM $WHO"),
            (2, "ARG A=busybox\nFROM $A\nARG A=abc"),
            (2, "ARG A=ab\nFROM ${A}cd"),
            (1, "FROM oci:/var/lib/x"),
            (1, "FROM docker-archive:/x.tar"),
            (1, "FROM docker://x"),
            (1, "FROM localhost/plimsoll/p/built-1:2"),
            (1, "FROM plimsoll/p/built-1:2"),
            (2, "FROM x\nCOPY --from=localhost/plimsoll/p/built-1:2 /a /b"),
        ] {
            assert_eq!(check(text).map_err(|refused| refused.line), Err(line), "{text}");
        }
    }
}
