//! An entry as JSON, written by hand where every call writes one: serde escapes each name anew.

use itoa::{Buffer, Integer};

use super::{Charge, Entry, KeptReport, Report, ReportStatus, ReportUsage, UsageRecord};
use crate::money::MicroUsd;
use crate::protocol::json::write_text;

/// What the record of a small call takes, with room to spare: the vector need not grow on the way.
const USUAL_BYTES: usize = 768;

impl Entry {
    /// Appends the entry as JSON: what serde would write, byte for byte.
    ///
    /// # Errors
    /// None that is known of: serde says that writing may fail.
    pub fn write_json(&self, out: &mut Vec<u8>) -> serde_json::Result<()> {
        match self {
            Self::Usage(record) => {
                out.reserve(USUAL_BYTES);
                out.extend_from_slice(br#"{"usage":"#);
                record.write_json(out);
                out.push(b'}');
                Ok(())
            }
            Self::Report(kept) => {
                out.reserve(USUAL_BYTES);
                out.extend_from_slice(br#"{"report":"#);
                kept.write_json(out);
                out.push(b'}');
                Ok(())
            }
            // Once in a budget's period, or where the platform was not there.
            Self::Reset(_) | Self::Reported(_) => serde_json::to_writer(out, self),
        }
    }
}

impl UsageRecord {
    fn write_json(&self, out: &mut Vec<u8>) {
        // In full, so that no field can be forgotten here.
        let Self {
            id,
            request_group_id,
            api_key_id,
            user_id,
            timestamp_us,
            model,
            provider,
            endpoint,
            prompt_tokens,
            completion_tokens,
            total_tokens,
            cache_read_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            cost,
            status,
            error_message,
            status_code,
            latency_ms,
            attempt_position,
            attempt_count,
            counts_toward_budget,
            leased,
            ceilings,
            policy_name,
            selection_reason,
        } = self;
        let mut to = Writer { out, digits: Buffer::new() };
        to.text(r#"{"id":"#, id);
        to.text(r#","request_group_id":"#, request_group_id);
        to.text_or_null(r#","api_key_id":"#, api_key_id.as_deref());
        to.text_or_null(r#","user_id":"#, user_id.as_deref());
        to.number(r#","timestamp_us":"#, *timestamp_us);
        to.text(r#","model":"#, model);
        to.text_or_null(r#","provider":"#, provider.as_deref());
        to.text(r#","endpoint":"#, endpoint);
        to.number_or_null(r#","prompt_tokens":"#, *prompt_tokens);
        to.number_or_null(r#","completion_tokens":"#, *completion_tokens);
        to.number_or_null(r#","total_tokens":"#, *total_tokens);
        to.maybe_number(r#","cache_read_tokens":"#, *cache_read_tokens);
        to.maybe_number(r#","cache_write_tokens":"#, *cache_write_tokens);
        to.maybe_number(r#","cache_write_1h_tokens":"#, *cache_write_1h_tokens);
        to.number_or_null(r#","cost":"#, cost.map(|MicroUsd(micros)| micros));
        to.text(r#","status":"#, status.as_str());
        to.maybe_text(r#","error_message":"#, error_message.as_deref());
        to.maybe_number(r#","status_code":"#, *status_code);
        to.number(r#","latency_ms":"#, *latency_ms);
        to.number(r#","attempt_position":"#, *attempt_position);
        to.number(r#","attempt_count":"#, *attempt_count);
        to.plain(match counts_toward_budget {
            true => r#","counts_toward_budget":true"#,
            false => r#","counts_toward_budget":false"#,
        });
        if *leased {
            to.plain(r#","leased":true"#);
        }
        to.charges(ceilings);
        to.maybe_text(r#","policy_name":"#, policy_name.as_deref());
        to.maybe_text(r#","selection_reason":"#, selection_reason.as_deref());
        to.plain("}");
    }
}

impl KeptReport {
    fn write_json(&self, out: &mut Vec<u8>) {
        let Self { id, made_at_us, report } = self;
        let mut to = Writer { out, digits: Buffer::new() };
        to.text(r#"{"id":"#, id);
        to.number(r#","made_at_us":"#, *made_at_us);
        to.plain(r#","report":"#);
        report.write_json(to.out);
        to.plain("}");
    }
}

impl Report {
    /// Appends the report as JSON: what serde would write, byte for byte.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let Self { correlation_id, status, is_final_attempt, session_label, usage, error_class } =
            self;
        let mut to = Writer { out, digits: Buffer::new() };
        to.text(r#"{"correlation_id":"#, correlation_id);
        to.plain(match status {
            ReportStatus::Success => r#","status":"success""#,
            ReportStatus::Error => r#","status":"error""#,
        });
        to.plain(match is_final_attempt {
            true => r#","is_final_attempt":true"#,
            false => r#","is_final_attempt":false"#,
        });
        to.maybe_text(r#","session_label":"#, session_label.as_deref());
        if let Some(usage) = usage {
            let ReportUsage {
                prompt_tokens,
                completion_tokens,
                total_tokens,
                cache_read_tokens,
                cache_write_tokens,
            } = *usage;
            to.number(r#","usage":{"prompt_tokens":"#, prompt_tokens);
            to.number(r#","completion_tokens":"#, completion_tokens);
            to.number(r#","total_tokens":"#, total_tokens);
            to.number(r#","cache_read_tokens":"#, cache_read_tokens);
            to.number(r#","cache_write_tokens":"#, cache_write_tokens);
            to.plain("}");
        }
        to.maybe_text(r#","error_class":"#, error_class.as_deref());
        to.plain("}");
    }
}

/// Fields on their way out, each with what stands before its value.
struct Writer<'o> {
    out: &'o mut Vec<u8>,
    digits: Buffer,
}

impl Writer<'_> {
    fn plain(&mut self, json: &str) {
        self.out.extend_from_slice(json.as_bytes());
    }

    fn text(&mut self, name: &str, text: &str) {
        self.plain(name);
        write_text(self.out, text);
    }

    fn text_or_null(&mut self, name: &str, text: Option<&str>) {
        self.plain(name);
        match text {
            Some(text) => write_text(self.out, text),
            None => self.plain("null"),
        }
    }

    fn maybe_text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn number(&mut self, name: &str, number: impl Integer) {
        self.plain(name);
        self.out.extend_from_slice(self.digits.format(number).as_bytes());
    }

    fn number_or_null(&mut self, name: &str, number: Option<impl Integer>) {
        match number {
            Some(number) => self.number(name, number),
            None => {
                self.plain(name);
                self.plain("null");
            }
        }
    }

    fn maybe_number(&mut self, name: &str, number: Option<impl Integer>) {
        if let Some(number) = number {
            self.number(name, number);
        }
    }

    fn charges(&mut self, charges: &[Charge]) {
        for (at, Charge { id, leased }) in charges.iter().enumerate() {
            self.text(if at == 0 { r#","ceilings":[{"id":"# } else { r#"},{"id":"# }, id);
            if *leased {
                self.plain(r#","leased":true"#);
            }
        }
        if !charges.is_empty() {
            self.plain("}]");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::control::Scope;
    use crate::settle::{BudgetReset, Status};

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z0-9:/-]{0,40}", "(\\PC|[\"\\\\\\x00-\\x1f]){0,12}"]
    }

    fn records() -> impl Strategy<Value = UsageRecord> {
        let texts = (text(), text(), text(), option::of(text()), option::of(text()));
        let more = (option::of(text()), option::of(text()), option::of(text()), option::of(text()));
        let tokens = prop::array::uniform6(option::of(any::<u64>()));
        let numbers = (any::<i64>(), option::of(any::<i64>()), option::of(any::<u16>()));
        let counts = (any::<u32>(), any::<u16>(), any::<u16>(), any::<bool>(), any::<bool>());
        let charges = prop::collection::vec((text(), any::<bool>()), 0..4);
        let status = prop::sample::select(vec![Status::Success, Status::Error, Status::Absorbed]);
        (texts, more, tokens, numbers, counts, charges, status).prop_map(
            |(texts, more, tokens, numbers, counts, charges, status)| UsageRecord {
                id: texts.0.into(),
                request_group_id: texts.1.into(),
                api_key_id: texts.3.map(Into::into),
                user_id: texts.4.map(Into::into),
                timestamp_us: numbers.0,
                model: texts.2.clone().into(),
                provider: more.0.map(Into::into),
                endpoint: texts.2.into(),
                prompt_tokens: tokens[0],
                completion_tokens: tokens[1],
                total_tokens: tokens[2],
                cache_read_tokens: tokens[3],
                cache_write_tokens: tokens[4],
                cache_write_1h_tokens: tokens[5],
                cost: numbers.1.map(MicroUsd),
                status,
                error_message: more.1.map(Into::into),
                status_code: numbers.2,
                latency_ms: counts.0,
                attempt_position: counts.1,
                attempt_count: counts.2,
                counts_toward_budget: counts.3,
                leased: counts.4,
                ceilings: charges
                    .into_iter()
                    .map(|(id, leased)| Charge { id: id.into(), leased })
                    .collect(),
                policy_name: more.2.map(Into::into),
                selection_reason: more.3.map(Into::into),
            },
        )
    }

    fn reports() -> impl Strategy<Value = Report> {
        let texts = (text(), option::of(text()), option::of(text()));
        let usage = option::of(prop::array::uniform5(any::<u64>()));
        (texts, usage, any::<bool>(), any::<bool>()).prop_map(
            |(texts, usage, is_success, is_final_attempt)| Report {
                correlation_id: texts.0.into(),
                status: if is_success { ReportStatus::Success } else { ReportStatus::Error },
                is_final_attempt,
                session_label: texts.1.map(Into::into),
                usage: usage.map(|tokens| ReportUsage {
                    prompt_tokens: tokens[0],
                    completion_tokens: tokens[1],
                    total_tokens: tokens[2],
                    cache_read_tokens: tokens[3],
                    cache_write_tokens: tokens[4],
                }),
                error_class: texts.2.map(Into::into),
            },
        )
    }

    fn written(entry: &Entry) -> String {
        let mut out = b"before ".to_vec();
        entry.write_json(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_record_is_written_as_serde_writes_it(record in records()) {
            let entry = Entry::Usage(record);
            let by_serde = serde_json::to_string(&entry).unwrap();
            prop_assert_eq!(written(&entry), format!("before {by_serde}"));
        }

        #[test]
        fn a_report_is_written_as_serde_writes_it(
            id in text(), made_at_us in any::<i64>(), report in reports(),
        ) {
            let mut alone = Vec::new();
            report.write_json(&mut alone);
            prop_assert_eq!(&alone, &serde_json::to_vec(&report).unwrap());
            let entry = Entry::Report(KeptReport { id: id.into(), made_at_us, report });
            let by_serde = serde_json::to_string(&entry).unwrap();
            prop_assert_eq!(written(&entry), format!("before {by_serde}"));
        }
    }

    #[test]
    fn the_other_entries_are_written_too() {
        let (id, budget_id): (Box<str>, Arc<str>) = ("i\"".into(), "b".into());
        let scope = Scope::User("u".into());
        let reset =
            BudgetReset { scope, budget_id, due_at_us: 1, reset_at_us: 2, next_reset_at_us: None };
        for entry in [Entry::Reset(reset), Entry::Reported(id)] {
            let by_serde = serde_json::to_string(&entry).unwrap();
            assert_eq!(written(&entry), format!("before {by_serde}"));
        }
    }
}
