# The things one does here; each is one script, so `sh scripts/demo` is `make demo` where there is no make.
# make train ARGS="model=resnet18 training.epochs=5" hands arguments on.
.PHONY: demo test train lint docs audit sbom notebooks

demo:
	@sh scripts/demo $(ARGS)

test:
	@sh scripts/test $(ARGS)

train:
	@sh scripts/train $(ARGS)

lint:
	@sh scripts/lint $(ARGS)

docs:
	@sh scripts/docs $(ARGS)

audit:
	@sh scripts/audit $(ARGS)

sbom:
	@sh scripts/sbom $(ARGS)

notebooks:
	@sh scripts/notebooks
