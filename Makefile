# Two commands: `make demo` (a real study with the bundled server and model) and `make test`. Both install what is
# missing, configure and build first. Everything else is plain CMake: see CONTRIBUTING.md.
PRESET ?= release
BUILD := build/$(PRESET)

.PHONY: all demo test programs setup configure clean
all: configure
	@cmake --build --preset $(PRESET)

setup:
	@tools/setup

configure: setup
	@mkdir -p $(BUILD)
	@cmake --preset $(PRESET) >$(BUILD)/configure.log 2>&1 || { cat $(BUILD)/configure.log; exit 1; }

programs: configure
	@cmake --build --preset $(PRESET) --target autoresearch tbq-server

test: all
	@ctest --preset $(PRESET)

# Exit codes 10 and 11 are answers too: the default stands, the budget is used up.
demo: programs
	@rm -rf runs/demo.jsonl runs/demo.logs; $(BUILD)/bin/autoresearch run --space configs/demo.yaml --out runs/demo.jsonl; \
	  code=$$?; [ $$code = 0 ] || [ $$code = 10 ] || [ $$code = 11 ] || exit $$code

clean:
	rm -rf build
