# SPDX-License-Identifier: GPL-2.0
#
# Every command that a person needs. `make help` lists them.
#
# Two folders are written to, both ignored by git:
#
#   CACHE   what is downloaded or takes long: the Debian tree, the kernel trees,
#           cargo's registry. Checkouts may share it.
#   BUILD   what is made of this checkout's sources.

MAKEFLAGS += --no-print-directory
CACHE ?= $(CURDIR)/.cache
BUILD ?= $(CURDIR)/build
export CACHE BUILD

# Run a command in the Debian tree, where the checkout is /carisma.
chroot := tools/chroot

.DEFAULT_GOAL := modules

##@ Set up

.PHONY: setup
setup: ## make the Debian tree and the prepared kernel tree (once, a few minutes)
	@tools/setup host tree packages kernel

.PHONY: update
update: ## look for a newer stock kernel and newer packages
	@rm -f $(CACHE)/stamps/packages
	@$(MAKE) setup

##@ Build

# With KDIR=, the modules are built by the host's own tools against that tree,
# to load into the kernel it is prepared for; without, in the Debian tree for
# the stock kernel.
.PHONY: modules
ifdef KDIR
modules:
	@tools/modules $(KDIR) $(BUILD)/modules
else
modules: setup ## build both modules (KDIR=... builds against your own kernel tree)
	@$(chroot) tools/modules /cache/kernel/tree /build/modules
endif

.PHONY: check
ifdef KDIR
check:
	@tools/check $(KDIR) $(RELEASE) && echo "check: $(KDIR) will do."
else
check: setup ## say what keeps the modules from being built (KDIR=..., RELEASE=...)
	@$(chroot) tools/check /cache/kernel/tree $$(cat $(CACHE)/root/etc/carisma-kernel) && \
		echo "check: the prepared tree will do."
endif

.PHONY: tools
tools: setup ## build the command-line tools
	@$(chroot) cargo build --quiet --release --workspace --locked
	@ln -sf cargo/release/carismactl $(BUILD)/carismactl

.PHONY: debug-kernel
debug-kernel: setup ## build the debug kernel (once, a quarter of an hour)
	@tools/setup debug

.PHONY: modules-debug
modules-debug: debug-kernel ## build both modules for the debug kernel
	@$(chroot) tools/modules /cache/debug/tree /build/modules-debug

.PHONY: guest
guest: modules tools ## boot a guest with both modules loaded, and type into it
	@$(chroot) tools/guest --load

.PHONY: shell
shell: setup ## open a shell in the Debian tree
	@$(chroot) bash

##@ Test

# Arguments for pytest, such as TESTS='tests/test_x.py -k name'.
TESTS ?=

# Those of languages, proxies and shop that are to be shown; all, if none is named.
DEMO ?=

.PHONY: demo
demo: modules tools ## the paper's three sites, with real servers: who answered what (DEMO='proxies')
	@$(chroot) tests/demo $(DEMO)

.PHONY: test
test: modules tools ## run the tests but the long ones: on the host, in guests, fuzzers, a short soak
	@$(chroot) tools/test

.PHONY: host-test
host-test: setup ## run the tests that need no kernel
	@$(chroot) tools/test host

.PHONY: test-long
test-long: modules tools ## the tests that take more than an hour in all: before a release
	@$(chroot) tools/test long

.PHONY: guest-test
guest-test: modules tools ## run the tests in guests (TESTS='...' is for pytest)
	@$(chroot) tools/test guest $(if $(TESTS),-- $(TESTS))

.PHONY: test-debug
test-debug: modules-debug tools ## run the tests in guests on the debug kernel (TESTS='...')
	@$(chroot) tools/test --kernel debug guest $(if $(TESTS),-- $(TESTS))

# How long, in seconds, from which seed, a random one if there is none, and whether nodes talk to each
# other with IPv4 or IPv6; services have addresses of both.
SOAK_SECONDS ?= 3600
SOAK_SEED ?=
SOAK_FAMILY ?= 4
soak := tests/soak --seconds $(SOAK_SECONDS) --family $(SOAK_FAMILY) \
	$(if $(SOAK_SEED),--seed $(SOAK_SEED))

.PHONY: soak
soak: modules tools ## mixed traffic while whatever can happen does (SOAK_SECONDS=3600)
	@$(chroot) $(soak)

.PHONY: soak-debug
soak-debug: modules-debug tools ## the same on the debug kernel
	@$(chroot) $(soak) --kernel debug

# Arguments for tools/fuzz: a target, and files to try instead of fuzzing it.
# FUZZ_SECONDS= and FUZZ_SEED= are for all fuzzers.
FUZZ ?=
export FUZZ_SECONDS FUZZ_SEED

.PHONY: fuzz
ifneq ($(FUZZ),)
fuzz: setup
	@$(chroot) tools/fuzz $(FUZZ)
else
fuzz: modules tools ## try inputs that nobody thought of (FUZZ_SECONDS=..., FUZZ_SEED=..., FUZZ='target [file]')
	@$(chroot) tools/test fuzz
endif

.PHONY: lint
lint: setup ## complain about the sources
	@$(chroot) tools/lint

.PHONY: format
format: setup ## let rustfmt write its opinion, then lint
	@$(chroot) tools/lint --fix

##@ Measure

# Arguments for bench/run, such as BENCH='--only ipvs --runs 1 --into /build/bench'.
BENCH ?=

.PHONY: bench
bench: modules tools ## CARISMA, HAProxy, nginx, IPVS side by side: bench/report.md (BENCH='...')
	@$(chroot) unshare --net bench/run --into bench \
		--commit "$$(git describe --always --dirty --abbrev=12)" $(BENCH)

##@ Clean up

.PHONY: clean
clean: ## remove what was built from the sources
	rm -rf $(BUILD)

.PHONY: distclean
distclean: clean ## remove the cache as well: the next set-up starts from nothing
	rm -rf --one-file-system $(CACHE)

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile
