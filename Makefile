# Two commands: `make demo` (a real study with the bundled server and model) and `make test`. Both install what is
# missing, configure and build first. Everything else is plain CMake: see CONTRIBUTING.md.
PRESET ?= release
BIN := build/$(PRESET)/bin

.PHONY: all build demo test setup clean
all: build

setup:
	@tools/setup

build: setup
	@cmake --preset $(PRESET) >build-$(PRESET).log 2>&1 || { cat build-$(PRESET).log; exit 1; }
	@rm -f build-$(PRESET).log
	@cmake --build --preset $(PRESET)

test: build
	@ctest --preset $(PRESET)

demo: build
	@$(BIN)/autoresearch run --space configs/demo.yaml --out runs/demo.jsonl

clean:
	rm -rf build
