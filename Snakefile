include: "workflow/Snakefile"


# An included `rule all` is not the default target of the including file, so it is named here.
rule default:
    default_target: True
    input:
        rules.all.input,
