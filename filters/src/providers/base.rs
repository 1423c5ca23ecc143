//! Where a provider is, for one that is in another place for every region or customer.

use std::borrow::Cow;
use std::fmt;

use super::{Family, Provider};
use crate::secret::Secret;

/// Where Vertex AI is called when nobody says where.
pub const DEFAULT_LOCATION: &str = "us-central1";

/// A setting without which a provider has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingSetting {
    /// Its key in a provider's entry: `api_base`, or the name of one of [`Provider::settings`].
    pub name: &'static str,
    /// Environment variables that may hold it.
    pub env: &'static [&'static str],
    /// It is there, but no part of a host name.
    pub is_malformed: bool,
}

impl fmt::Display for MissingSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, env, is_malformed } = self;
        if *is_malformed {
            return write!(f, "{name} may hold letters, digits and '-' only");
        }
        write!(f, "set {name}")?;
        env.iter().try_for_each(|variable| write!(f, " or {variable}"))
    }
}

impl std::error::Error for MissingSetting {}

/// The value called `name`; blank is none.
pub fn setting<'a>(settings: &'a [(String, Secret)], name: &str) -> Option<&'a str> {
    let (_, value) = settings.iter().find(|(key, _)| key == name)?;
    Some(value.expose().trim()).filter(|value| !value.is_empty())
}

impl Provider {
    /// Its own base URL, without a trailing slash: the default of the table with the regions and names of `settings`.
    ///
    /// A setting can name a place of the provider's, and no other host.
    ///
    /// # Errors
    /// What must be set first.
    pub fn base(
        &'static self,
        settings: &[(String, Secret)],
    ) -> Result<Cow<'static, str>, MissingSetting> {
        let missing = |name| self.missing(name);
        let template = self.base_url.ok_or_else(|| missing("api_base"))?;
        if matches!(self.family, Family::Vertex | Family::VertexAnthropic) {
            let location = setting(settings, "location").unwrap_or(DEFAULT_LOCATION);
            let base = vertex(location);
            return base.map(Cow::Owned).ok_or(malformed(missing("location")));
        }
        let Some((before, rest)) = template.split_once('{') else {
            return Ok(Cow::Borrowed(template));
        };
        let (placeholder, after) = rest.split_once('}').ok_or_else(|| missing("api_base"))?;
        let name = if placeholder == "region" { "region_name" } else { placeholder };
        let name = self.settings.iter().find(|known| known.name == name).map(|known| known.name);
        let name = name.ok_or_else(|| missing("api_base"))?;
        let value = setting(settings, name).ok_or_else(|| missing(name))?;
        if !is_label(value) {
            return Err(malformed(missing(name)));
        }
        // Amazon's Chinese regions are below a domain of their own.
        let china = if placeholder == "region" && value.starts_with("cn-") { ".cn" } else { "" };
        Ok(Cow::Owned(format!("{before}{value}{after}{china}")))
    }

    fn missing(&'static self, name: &'static str) -> MissingSetting {
        let known = self.settings.iter().find(|known| known.name == name);
        let env = known.map_or(self.base_env, |known| known.env);
        MissingSetting { name, env, is_malformed: false }
    }

    /// `base` with what the provider's own client adds to it, such as `/openai/v1`; one that ends in `/v1` has it
    /// already. `base` is a URL or its path, without a trailing slash.
    pub fn rooted<'a>(&self, base: &'a str) -> Cow<'a, str> {
        if self.prefix.is_empty() || base.ends_with("/v1") {
            return Cow::Borrowed(base);
        }
        Cow::Owned(format!("{base}{}", self.prefix))
    }
}

fn malformed(missing: MissingSetting) -> MissingSetting {
    MissingSetting { is_malformed: true, ..missing }
}

/// Scheme and host of Vertex AI in `location`: a region, `global`, or one of the multi-regions `us` and `eu`. `None`
/// when that is no part of a host name.
fn vertex(location: &str) -> Option<String> {
    if !is_label(location) {
        return None;
    }
    Some(match location {
        "global" => "https://aiplatform.googleapis.com".into(),
        "us" | "eu" => format!("https://aiplatform.{location}.rep.googleapis.com"),
        region => format!("https://{region}-aiplatform.googleapis.com"),
    })
}

/// Whether it can stand between two dots of a host name.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    fn base(provider: &str, settings: &[(&str, &str)]) -> Result<String, String> {
        let settings: Vec<(String, Secret)> =
            settings.iter().map(|(name, text)| ((*name).into(), Secret::new(*text))).collect();
        let base = find(provider).unwrap().base(&settings);
        base.map(Cow::into_owned).map_err(|missing| missing.to_string())
    }

    #[test]
    fn regions_and_resources_fill_the_address() {
        let tokyo = [("region_name", "ap-northeast-1")];
        let bedrock = "https://bedrock-runtime.ap-northeast-1.amazonaws.com";
        assert_eq!(base("bedrock", &tokyo).unwrap(), bedrock);
        let china = "https://runtime.sagemaker.cn-north-1.amazonaws.com.cn";
        assert_eq!(base("sagemaker", &[("region_name", " cn-north-1 ")]).unwrap(), china);
        let azure = "https://my-res.services.ai.azure.com/anthropic";
        assert_eq!(base("azureanthropic", &[("resource", "my-res")]).unwrap(), azure);
        assert_eq!(base("openai", &tokyo).unwrap(), "https://api.openai.com/v1");
    }

    #[test]
    fn vertex_has_regions_multi_regions_and_a_global_address() {
        for (location, host) in [
            ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
            ("global", "aiplatform.googleapis.com"),
            ("us", "aiplatform.us.rep.googleapis.com"),
            ("eu", "aiplatform.eu.rep.googleapis.com"),
            ("", "us-central1-aiplatform.googleapis.com"),
        ] {
            for provider in ["vertexai", "vertexaianthropic"] {
                let found = base(provider, &[("location", location)]);
                assert_eq!(found.unwrap(), format!("https://{host}"), "{location}");
            }
        }
    }

    #[test]
    fn a_setting_cannot_lead_to_another_host() {
        for evil in ["evil.com/", "evil.com#", "a@b", "a.b", "a:80", "-", "ü", "a/../b", "a\nb"] {
            for (provider, name) in [
                ("bedrock", "region_name"),
                ("sagemaker", "region_name"),
                ("azureanthropic", "resource"),
                ("vertexai", "location"),
                ("vertexaianthropic", "location"),
            ] {
                let told = base(provider, &[(name, evil)]).unwrap_err();
                assert_eq!(told, format!("{name} may hold letters, digits and '-' only"));
            }
        }
    }

    #[test]
    fn what_is_missing_is_named_with_its_variables() {
        let told = |provider| base(provider, &[("region_name", " ")]).unwrap_err();
        assert_eq!(told("bedrock"), "set region_name or AWS_REGION or AWS_DEFAULT_REGION");
        assert_eq!(told("azureanthropic"), "set resource or AZURE_ANTHROPIC_RESOURCE");
        assert_eq!(told("watsonx"), "set api_base or WATSONX_URL");
        assert_eq!(told("mock"), "set api_base");
    }

    #[test]
    fn a_base_gets_what_the_vendors_client_adds_and_only_once() {
        for (provider, given, expected) in [
            ("groq", "https://api.groq.com", "https://api.groq.com/openai/v1"),
            ("groq", "https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1"),
            ("groq", "http://proxy/v1", "http://proxy/v1"),
            ("lmstudio", "http://localhost:1234", "http://localhost:1234/v1"),
            ("mistral", "", "/v1"),
            ("anthropic", "/anthropic/v1", "/anthropic/v1"),
            ("openai", "http://h/x", "http://h/x"),
        ] {
            assert_eq!(find(provider).unwrap().rooted(given), expected);
        }
    }
}
