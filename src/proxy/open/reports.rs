//! What a platform is told of a call's attempts, and what it says of them.

use otari_filters::control::Settling;
use otari_filters::settle::{Report, ReportStatus};
use otari_filters::upstream::ErrorClass;

use super::{Ending, Open};

impl Open {
    /// What the platform is told of an attempt that failed.
    pub(super) fn report(&self, is_final: bool, class: Option<ErrorClass>) -> Option<Report> {
        Some(Report {
            correlation_id: self.current.as_ref()?.id.clone()?,
            status: ReportStatus::Error,
            is_final_attempt: is_final,
            session_label: self.origin.session_label.clone(),
            usage: None,
            error_class: class.map(|class| class.to_string().into()),
        })
    }

    /// What the platform is told of the last attempt.
    pub(super) fn last_report(&self, ending: &Ending) -> Option<Report> {
        let served = Report {
            status: ReportStatus::Success,
            usage: self.usage().map(|usage| usage.for_report()),
            ..self.report(true, None)?
        };
        match ending {
            Ending::Complete { .. } => Some(served),
            Ending::Failed { class, .. } => self.report(true, *class),
            Ending::Broken(_) => self.report(true, None),
            // Nobody waits for an answer any more: what the attempt would have become is not known.
            Ending::Cut { reason: "client_disconnected", .. } => {
                let platform = self.app.config.platform.as_ref();
                let wanted = platform.is_some_and(|platform| platform.report_disconnects);
                let told = if self.usage().is_some() { served } else { self.report(true, None)? };
                wanted.then_some(told)
            }
            Ending::Cut { .. } => self.report(true, None),
        }
    }

    /// Waits until the platform has the reports of attempts that failed, at most as long as one report may take.
    pub(in crate::proxy) async fn flush_reports(&mut self) {
        let Some(platform) = &self.app.config.platform else { return };
        let reports = std::mem::take(&mut self.reports).into_iter().chain(self.settling.take());
        let all = futures_util::future::join_all(reports);
        if tokio::time::timeout(platform.usage_timeout, all).await.is_err() {
            tracing::warn!("a refusal left before the platform had its reports; they follow");
        }
    }

    /// What the platform makes of the answer, to be waited for; `None`: nobody is asked.
    pub(in crate::proxy) fn take_settling(&mut self) -> Option<Settling> {
        self.settling.take()
    }

    /// Whether the answer is complete and the platform is known not to say what it cost. Said once.
    pub(in crate::proxy) fn take_unpriced(&mut self) -> bool {
        std::mem::take(&mut self.is_unpriced)
    }
}
