"""A released model as one folder of safetensors: LoRA merged, in one number format, quantized if asked; see convert.py.

    OUT/minivlm.yaml     its configuration: `demo.py --cfg-path OUT` serves it
    OUT/manifest.json    every file with its size, what the folder was made from and by which version
    OUT/PART/            one folder for each part: language_model, vision_tower, connector, …
        config.json      transformers' configuration; in language_model what the released one says besides
        module.json      the class, and the arguments of a class that has no such configuration
        *.safetensors    the weights by the names of that class, in shards with an index where they are large
    OUT/language_model/  also holds the tokenizer's files and the terms of use

A Llama, Gemma or Mixtral is thereby a folder that `AutoModelForCausalLM.from_pretrained` reads, in 8 and 4 bits too.
Classes of `models/parts` have names of their own: theirs in there are the names in the file.
"""
