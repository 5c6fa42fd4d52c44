//! Tasks that run once for each revision.

use super::{Allowed, Check, literal};
use crate::app::{Component, EnvValue};

pub(super) fn hooks(check: &mut Check<'_>, it: &Component) {
    for (point, hook) in it.hooks.iter() {
        let mut check = check.at(point);
        if hook.command.is_empty() && hook.args.is_empty() {
            check.fail_with("nothing says what to run", "command: [./migrate]");
        }
        if it.program.is_none() && hook.command.iter().any(|part| part.contains("{file}")) {
            check.at("command").fail("`{file}` stands for the program's file, but there is no `program`");
        }
        for (name, value) in &hook.env {
            if let EnvValue::Text(text) = value {
                literal(&mut check.at("env").at(name), it, text, Allowed::Everything);
            }
        }
        if hook.deadline.is_some_and(|deadline| deadline.millis == 0) {
            check.at("deadline").fail("a task needs some time");
        }
    }
}
