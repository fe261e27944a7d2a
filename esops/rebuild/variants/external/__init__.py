"""A version that the application itself builds: started by a program, watched by its checkpoint,
verified, switched to, retired.

Of such a version esops writes nothing but the name that readers use. Marten gives each version of a
projection its own tables and progression row (`mt_doc_x_2`, `X:V2:All`), Emmett a processor of its
own; the checkpoint's name says which of them belongs to a version of esops.

    plan.py         what will be done
    work.py         the steps that differ from a rebuild that esops does
    checkpoint.py   how far the application is
"""
