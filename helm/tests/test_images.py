"""What goes into an image."""

import json
import pathlib
import subprocess
import tempfile
import unittest

from chart import ROOT


def compile_library(directory, name, function, *linked):
    """A shared library in a directory, linked with others of the directory."""
    source = directory / f"{function}.c"
    source.write_text(f"int {function}(void) {{ return 1; }}\n")
    arguments = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-Wl,--no-as-needed", source, *linked]
    subprocess.run(["cc", *arguments, "-o", directory / name], check=True, capture_output=True, text=True)
    return directory / name


def root(*arguments):
    return subprocess.run([ROOT / "deploy/image/root.sh", *arguments], capture_output=True, text=True)


class Root(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.work = pathlib.Path(temporary.name)
        self.cuda, self.stubs = self.work / "cuda", self.work / "stubs"
        self.cuda.mkdir()
        self.stubs.mkdir()
        inner = compile_library(self.cuda, "libcublasLt.so.13", "inner")
        outer = compile_library(self.cuda, "libcublas.so.13", "outer", inner)
        compile_library(self.cuda, "libunused.so.1", "unused")
        driver = compile_library(self.stubs, "libcuda.so.1", "driver")
        # As in CUDA: the name that is asked for is a link to a file with a longer version.
        inner.rename(self.cuda / "libcublasLt.so.13.0.0")
        inner.symlink_to("libcublasLt.so.13.0.0")
        source = self.work / "main.c"
        source.write_text("int main(void) { return 0; }\n")
        self.program = self.work / "groundling"
        linked = ["-Wl,--no-as-needed", f"-Wl,-rpath-link,{self.cuda}", source, outer, driver]
        subprocess.run(["cc", *linked, "-o", self.program], check=True, capture_output=True, text=True)

    def test_it_has_the_program_and_the_libraries_that_are_named_and_no_others(self):
        licences = self.work / "licences"
        licences.mkdir()
        (licences / "crates.tsv").write_text("x\n")
        result = root(self.program, self.work / "out", self.cuda)
        self.assertEqual(result.returncode, 0, result.stderr)
        out = self.work / "out"
        files = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
        [libraries] = {path.parent.relative_to(out) for path in out.rglob("*.so.*")}
        self.assertRegex(str(libraries), "^usr/lib/[a-z0-9_]+-linux-gnu$")
        documents = ("LICENSE", "THIRD-PARTY.md", "licences/crates.tsv")
        expected = {"usr/bin/groundling", *(f"usr/share/doc/groundling/{name}" for name in documents)}
        expected |= {f"{libraries}/libcublas.so.13", f"{libraries}/libcublasLt.so.13"}
        self.assertEqual(files, expected)
        self.assertFalse((out / libraries / "libcublasLt.so.13").is_symlink())

    def test_a_library_that_is_not_found_is_named(self):
        result = root(self.program, self.work / "out")
        self.assertEqual(result.returncode, 1)
        self.assertIn("libcublas.so.13 is needed and is in none of", result.stderr)
        (self.cuda / "libcublasLt.so.13").unlink()
        result = root(self.program, self.work / "other", self.cuda)
        self.assertEqual(result.returncode, 1)
        self.assertIn("libcublasLt.so.13 is needed", result.stderr)


class Licences(unittest.TestCase):
    def collect(self, work, packages, edges):
        """Runs licences.py on packages (name to licence and files) and their dependencies."""
        described = []
        for name, (licence, files) in packages.items():
            directory = work / name
            directory.mkdir()
            for file in files:
                (directory / file).write_text(f"{file} of {name}\n")
            source = None if name == "groundling" else "registry"
            package = {"id": name, "name": name, "version": "1.0.0", "license": licence, "license_file": None}
            package |= {"authors": ["A. Author"], "repository": f"https://code.example/{name}"}
            described.append({**package, "source": source, "manifest_path": str(directory / "Cargo.toml")})
        nodes = [
            {"id": name, "deps": [{"pkg": to, "dep_kinds": [{"kind": kind}]} for to, kind in edges.get(name, [])]}
            for name in packages
        ]
        metadata = json.dumps({"packages": described, "resolve": {"nodes": nodes}})
        command = [ROOT / "deploy/image/licences.py", "groundling", work / "out"]
        return subprocess.run(command, input=metadata, capture_output=True, text=True)

    def test_every_crate_of_the_program_is_there_with_its_licence(self):
        with tempfile.TemporaryDirectory() as temporary:
            work = pathlib.Path(temporary)
            packages = {
                "groundling": ("Apache-2.0", ["LICENSE"]),
                "linked": ("MIT", ["LICENSE-MIT", "src.rs", "NOTICE.txt"]),
                "builder": ("ISC", ["COPYING"]),
                "bare": ("MIT", []),
                "tester": ("MIT", ["LICENSE"]),
                "unrelated": ("MIT", ["LICENSE"]),
            }
            edges = {"groundling": [("linked", None), ("tester", "dev")], "linked": [("builder", "build"), ("bare", None)]}
            result = self.collect(work, packages, edges)
            self.assertEqual(result.returncode, 0, result.stderr)
            files = {str(path.relative_to(work / "out")) for path in (work / "out").rglob("*") if path.is_file()}
            expected = {"crates.tsv", "builder-1.0.0/COPYING", "bare-1.0.0/manifest.txt"}
            expected |= {"linked-1.0.0/LICENSE-MIT", "linked-1.0.0/NOTICE.txt"}
            self.assertEqual(files, expected)
            lines = ["bare\t1.0.0\tMIT\n", "builder\t1.0.0\tISC\n", "linked\t1.0.0\tMIT\n"]
            self.assertEqual((work / "out/crates.tsv").read_text(), "".join(lines))
            said = (work / "out/bare-1.0.0/manifest.txt").read_text()
            self.assertIn("licence: MIT\nauthors: A. Author\nrepository: https://code.example/bare\n", said)

    def test_a_crate_without_a_licence_is_named(self):
        with tempfile.TemporaryDirectory() as temporary:
            packages = {"groundling": ("Apache-2.0", []), "linked": (None, [])}
            result = self.collect(pathlib.Path(temporary), packages, {"groundling": [("linked", None)]})
            self.assertEqual(result.returncode, 1)
            self.assertIn("linked 1.0.0 names no licence", result.stderr)


if __name__ == "__main__":
    unittest.main()
