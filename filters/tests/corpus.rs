//! Every kept input of the fuzz targets, `corpus/<target>/*`: what the fuzzer found holds for good.

#[cfg(test)]
#[path = "../fuzz/bodies.rs"]
mod bodies;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::bodies;

    #[test]
    fn every_kept_input_holds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
        let mut failed = Vec::new();
        for (name, _) in bodies::TARGETS {
            let folder = root.join(name);
            let files = fs::read_dir(&folder).unwrap_or_else(|_| panic!("{name}: no corpus"));
            let mut count = 0;
            for file in files {
                let path = file.unwrap().path();
                let input = fs::read(&path).unwrap();
                let held = std::panic::catch_unwind(|| bodies::run(name, &input));
                failed.extend(held.is_err().then_some(path));
                count += 1;
            }
            assert!(count > 0, "{name}: an empty corpus");
        }
        assert!(failed.is_empty(), "{failed:#?}");
    }

    #[test]
    fn every_target_can_be_built() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        for (name, _) in bodies::TARGETS {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is no [[bin]]");
            let target = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(target.contains(&format!("bodies::run(\"{name}\"")), "{name}");
        }
    }
}
